"""Prepares ImageNet-21k, or any images in class folders with an is-a graph, for training.

python -m experts.data.imagenet21k --archive=winter21_whole --out=data

ARCHIVE is a tar of tars nXXXXXXXX.tar (fall11_whole.tar), a folder of them (what `tar xf winter21_whole.tar.gz`
leaves), or a folder of class folders. The is-a graph is that of WordNet 3.0, or of --edges=FILE with lines
child<TAB>parent; such a set takes a name of its own, --name=my_images. Images are copied as they are; what is none is
left out and listed in skipped.txt. After an interruption the same command goes on where it was.

The result is read with --config.data_dir=OUT --config.upstream.data=tfds:NAME, and by TFDS itself:
tfds.data_source('NAME', split='train', data_dir=OUT).
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from absl import app, flags, logging

from experts import entry
from experts.data import archives, hierarchy, shards, wordnet
from experts.data.names import some

VERSION = '1.0.0'


@dataclasses.dataclass(frozen=True)
class Images:
  """Images in classes, and where the is-a graph of these is.

  Attributes:
    archive: where the images are; see `archives.find`.
    edges: an is-a file; empty: WordNet.
    nouns: where WordNet is; see `wordnet.load`.
    without: classes to leave out.
  """

  archive: str
  edges: str = ''
  nouns: str = ''
  without: Sequence[str] = ()

  def sources(self) -> dict[str, list[archives.Source]]:
    """The sources of each class.

    Raises:
      ValueError: there is no archive of classes, or no such class to leave out.
      OSError: something is not there, or cannot be read.
    """
    logging.info('looking for the classes of %s', self.archive)
    found = archives.find(self.archive)
    for left_out in self.without:
      if not found.pop(left_out, None):
        raise ValueError(f'--without={left_out}: {self.archive} has no such class')
    return found


def build(
  images: Images,
  out: str,
  *,
  name: str = 'imagenet21k',
  validation: float = 0.01,
  processes: int = 0,
  number_of_shards: int = 0,
) -> pathlib.Path:
  """Makes a TFDS data set of array_record files with the splits train and validation.

  Args:
    images: what is prepared.
    out: the folder of data sets, TFDS's data_dir.
    name: of the data set.
    validation: the share of every class that is held out, chosen by a hash of the file's name.
    processes: how many work; 0: one for each core.
    number_of_shards: files of each split; 0: as suits the size.

  Returns:
    The folder of the data set.

  Raises:
    ValueError: something is wrong with what was given; the message names it. Complete shards are kept.
    OSError: something is not there, or cannot be read or written.
  """
  if not 0 <= validation < 1:
    raise ValueError(f'--validation={validation}: a share of at least 0 and below 1 is held out')
  if not re.fullmatch('[a-z][a-z0-9_]*', name):
    raise ValueError(f'--name={name}: TFDS wants small letters, digits and underscores')
  final = pathlib.Path(out).expanduser() / name / VERSION
  sources = images.sources()
  tree, definitions = _hierarchy(sources, images.edges, images.nouns)
  by_class = [sources[name] for name in tree.nodes[: tree.num_leaves]]
  settings = {
    'validation': validation,
    'classes': tree.num_leaves,
    'is-a graph': shards.digest([tree.nodes, tree.parents]),
    'archive': shards.digest([[source.key for source in group] for group in by_class]),
    'shards': number_of_shards,
  }
  if final.exists():
    _refuse_other(final, settings)
    logging.info('%s is there already', final)
    return final
  folder = final.with_name(f'{VERSION}.incomplete')
  (folder / 'shards').mkdir(parents=True, exist_ok=True)
  with _alone(folder):
    plan = shards.Plan(
      name=name,
      folder=folder,
      tree=tree,
      first=_first_images(folder, sources, settings),
      pieces=shards.deal(by_class, number_of_shards),
      validation=validation,
      rest=shards.digest([validation, settings['is-a graph']]),
    )
    shards.write_missing(plan, processes or os.cpu_count() or 1)
    _finish(plan, definitions, settings)
    os.rename(folder, final)
  return final


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
  """Holds a lock, which goes with the process however that ends."""
  with open(folder / 'lock', 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(f'{folder}: another process is writing it') from None
    yield


def _hierarchy(
  classes: Iterable[str], edges: str, nouns: str
) -> tuple[hierarchy.Hierarchy, dict[str, str]]:
  """The classes' hierarchy, and what its nodes mean."""
  names = sorted(classes)
  if edges:
    pairs = hierarchy.read_edges(edges)
    known, definitions = {name for pair in pairs for name in pair}, {}
    where, remedy = edges, 'add a line child<TAB>parent'
  else:
    synsets = wordnet.load(nouns)
    pairs, known, definitions = synsets.edges, synsets.definitions, synsets.definitions
    where, remedy = 'WordNet 3.0', 'give an is-a file (--edges=FILE)'
  unknown = [name for name in names if name not in known]
  if unknown:
    raise ValueError(
      f'class {some(unknown)} of the archive: not in {where}: {remedy},'
      f' or leave it out with --without={",".join(unknown[:5])}'
    )
  tree = hierarchy.from_edges([pair for pair in pairs if pair[1]], names)
  return tree, {node: definitions[node] for node in tree.nodes if node in definitions}


def _first_images(
  folder: pathlib.Path, sources: Mapping[str, Sequence[archives.Source]], settings: Mapping
) -> tuple[tuple[str, str], ...]:
  """An image of every class: checks, before the long work, that each has one, and every tar an end."""
  path = folder / 'checked.json'
  if path.exists():
    checked = json.loads(path.read_text())
    if checked['settings'] == settings:
      return tuple(map(tuple, checked['first']))
  first, empty, damaged = [], [], []
  for name in tqdm.tqdm(sorted(sources), 'checking', unit=' classes', mininterval=1):
    try:
      for source in sources[name]:
        source.check()
      image = next(_images(sources[name]), None)
    except archives.Damaged as error:
      damaged += error.args
      continue
    first.append(image)
    if not image:
      empty.append(name)
  if damaged:
    raise archives.Damaged(*damaged)
  if empty:
    raise ValueError(
      f'class {some(empty)}: has no image: add one, or leave it out with --without={",".join(empty)}'
    )
  shards.write_text(path, json.dumps({'settings': settings, 'first': first}))
  return tuple(first)


def _images(sources: Sequence[archives.Source]) -> Iterator[tuple[str, str]]:
  for source in sources:
    for member in source.read():
      if not archives.fault(member):
        yield source.name, member.name


def _finish(plan: shards.Plan, definitions: Mapping[str, str], settings: Mapping) -> None:
  """Describes the data set to TFDS, and removes what only the building needed."""
  records = [plan.record(number) for number in range(len(plan.pieces))]
  info = _info(plan, records, definitions)
  info.write_to_directory(plan.folder)
  skipped = [line for record in records for line in record['skipped']]
  (plan.folder / 'skipped.txt').write_text(''.join(f'{line}\n' for line in skipped))
  (plan.folder / 'settings.json').write_text(json.dumps(settings, indent=2) + '\n')
  # Of stopped processes, and of an earlier attempt with other settings.
  files = {str(plan.file(s, n)) for s in shards.SPLITS for n in range(len(records))}
  for path in plan.folder.glob('*.array_record-*'):
    if str(path).removesuffix('.labels.npy') not in files:
      path.unlink()
  (plan.folder / 'checked.json').unlink()
  (plan.folder / 'lock').unlink()
  shutil.rmtree(plan.folder / 'shards')
  logging.info(
    '%s images of %d classes (%d nodes with their ancestors); %d files skipped%s',
    ', '.join(f'{split.num_examples} {name}' for name, split in info.splits.items()),
    plan.tree.num_leaves, len(plan.tree.nodes), len(skipped),
    f', listed in {plan.folder.with_name(VERSION)}/skipped.txt' if skipped else '',
  )  # fmt: skip


def _info(
  plan: shards.Plan, records: Sequence[Mapping[str, Any]], definitions: Mapping[str, str]
) -> tfds.core.DatasetInfo:
  names = plan.tree.nodes
  info = tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name=plan.name,
      version=tfds.core.Version(VERSION),
      data_dir=str(plan.folder),
      module_name=__name__,
    ),
    description='label: the class; labels: the class and all that it is, by the is-a graph.',
    features=shards.features(plan.tree),
    supervised_keys=('image', 'label'),
    metadata=tfds.core.MetadataDict(
      edges=[
        (names[node], names[p]) for node, above in enumerate(plan.tree.parents) for p in above
      ],
      definitions=definitions,
    ),
  )
  info.set_file_format('array_record')
  splits = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=[record['images'][split] for record in records],
      num_bytes=sum(record['bytes'][split] for record in records),
      filename_template=tfds.core.ShardedFileTemplate(
        data_dir=plan.folder, dataset_name=plan.name, split=split, filetype_suffix='array_record'
      ),
    )
    for split in shards.SPLITS
    if any(record['images'][split] for record in records)
  ]
  info.set_splits(tfds.core.splits.SplitDict(splits))
  return info


def _refuse_other(final: pathlib.Path, settings: Mapping) -> None:
  path = final / 'settings.json'
  found = json.loads(path.read_text()) if path.exists() else {}
  differing = [name for name in settings if found.get(name) != settings[name]]
  if differing:
    raise ValueError(
      f'{final}: is there already, made with another {", ".join(differing)}: give another --out or --name,'
      ' or remove it'
    )


_ARCHIVE = flags.DEFINE_string(
  'archive', None, 'Tar of tars, or folder of tars or of class folders.'
)
_OUT = flags.DEFINE_string('out', None, 'Folder of data sets, for --config.data_dir.')
_NAME = flags.DEFINE_string('name', 'imagenet21k', 'Name of the data set.')
_EDGES = flags.DEFINE_string('edges', '', 'Is-a file with lines child<TAB>parent; empty: WordNet.')
_WORDNET = flags.DEFINE_string(
  'wordnet', '', "WordNet 3.0's data.noun[.gz], or 'download'; empty: what wordnet-base installs."
)
_WITHOUT = flags.DEFINE_list('without', [], 'Classes to leave out.')
_VALIDATION = flags.DEFINE_float('validation', 0.01, 'Share of every class that is held out.')
_PROCESSES = flags.DEFINE_integer(
  'processes', 0, 'Processes that work; 0: as many as there are cores.'
)


def main(argv):
  del argv
  logging.set_verbosity(logging.INFO)
  images = Images(_ARCHIVE.value, _EDGES.value, _WORDNET.value, _WITHOUT.value)
  print(
    build(
      images,
      _OUT.value,
      name=_NAME.value,
      validation=_VALIDATION.value,
      processes=_PROCESSES.value,
    )
  )


if __name__ == '__main__':
  flags.mark_flags_as_required(['archive', 'out'])
  with entry.guard('interrupted: the same command goes on from the shards that are complete'):
    app.run(main)
