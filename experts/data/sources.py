"""Opens a split of labelled images by a short specification."""

import difflib
import os

from experts.data.dataset import Dataset, UndecodableImage, check_task, decode, from_arrays

__all__ = [
  'Dataset',
  'UndecodableImage',
  'check_task',
  'decode',
  'from_arrays',
  'is_drawn',
  'open_dataset',
  'own',
]


def open_dataset(spec: str, split: str, data_dir: str = '') -> Dataset:
  """Opens one split of a data set.

  Args:
    spec: 'images:PATH' (a folder, .tar[.gz] or .zip of split/class/file, class/file, or files and a table of labels; see
      `layouts`), 'tfds:NAME[/CONFIG][:VERSION]',
      'vtab:TASK[@VERSION]', 'natural6:TASK' or 'glyphs:SET'.
    split: a split that the source has; TFDS split expressions such as 'train[:800]' with TFDS.
    data_dir: where a relative PATH starts, and where TFDS looks for prepared data (empty: the
      working folder, and TFDS's own default).

  Returns:
    The split.

  Raises:
    FileNotFoundError: the folder or archive is missing, or the TFDS data set is not prepared.
    ValueError: an unknown scheme, name or split; the message lists the known ones.
  """
  scheme, _, name = spec.partition(':')
  # Imported where used: TFDS and Matplotlib cost seconds that the other sources need not pay.
  if (path := own(spec)) is not None:
    from experts.data import image_files

    return image_files.open_images(os.path.join(data_dir, os.path.expanduser(path)), split)
  if scheme == 'tfds':
    from experts.data import prepared

    return prepared.open_prepared(name, split, data_dir)
  if scheme == 'vtab':
    from experts.data import vtab

    return vtab.open_task(name, split, data_dir)
  if scheme == 'natural6':
    from experts.data import natural6

    return natural6.open_task(name, split, data_dir)
  if scheme == 'glyphs':
    from experts.data import glyphs

    return glyphs.open_glyphs(name, split)
  known = ('images', 'tfds', 'vtab', 'natural6', 'glyphs')
  near = difflib.get_close_matches(scheme, known, 1)
  hint = f' (did you mean {near[0]}:?)' if near else ''
  if os.path.exists(os.path.join(data_dir, os.path.expanduser(spec))):
    hint = f' (did you mean images:{spec}?)'
  raise ValueError(
    f'{spec!r}: unknown kind of data set {scheme!r}{hint};'
    ' known are images:PATH, tfds:NAME, vtab:TASK, natural6:TASK, glyphs:SET'
  )


def own(spec: str) -> str | None:
  """The path of people's own folder or archive, as given; None where another kind of data set is named."""
  scheme, _, path = spec.partition(':')
  return path if scheme == 'images' else None


def is_drawn(spec: str) -> bool:
  """Whether images are drawn by the program itself, which takes a while, and can be no others the next time."""
  return spec.startswith('glyphs:')
