"""How a fine-tuned network leaves: written, run in its own runtime, compared with ours, and only then put where it is to be."""

import os
import tempfile

from experts.export import card, comparison, origin, shown
from experts.models import exporting, tuned


def export(model: str, form: str, out: str, data_dir: str = '') -> comparison.Check:
  """Writes a fine-tuned network with its model card into a new folder, or nothing.

  Args:
    model: see `models.tuned.read`.
    form: of `models.exporting.FORMS`.
    out: the folder, which is not there yet.
    data_dir: where relative paths of the task's data start.

  Raises:
    OSError: no such model, or the folder is there.
    ValueError: a network that has no such form, a package that is missing, or an export that computes something else.
  """
  one, module = tuned.read(model, '--model'), exporting.form(form)
  out = os.path.abspath(os.path.expanduser(out))
  if os.path.exists(out):
    raise FileExistsError(f'{out} is there already: give another --out, or remove it first')
  known = origin.find(one)
  parent = os.path.dirname(out)
  os.makedirs(parent, exist_ok=True)
  # Beside the target, since a rename is atomic only within one file system.
  with tempfile.TemporaryDirectory(dir=parent, prefix='.export-') as scratch:
    staged = os.path.join(scratch, 'export')
    os.mkdir(staged)
    module.write(one, staged)
    check = comparison.compare(module, one, staged, *shown.images(one, known, data_dir))
    text = card.write(one, known, check, module.LIBRARY, module.usage(one))
    with open(os.path.join(staged, 'README.md'), 'w', encoding='utf-8') as file:
      file.write(text)
    os.rename(staged, out)
  return check
