"""Data sets prepared with TensorFlow Datasets, read at random without TensorFlow."""

import dataclasses
import difflib
import glob
import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experts.data import tfrecords
from experts.data.dataset import Dataset, UndecodableImage, decode

Example = Mapping[str, Any]


class UnknownVersion(ValueError):
  """A version of a data set that is neither prepared nor built by this TFDS."""


def open_prepared(name: str, split: str, data_dir: str = '') -> Dataset:
  """Opens a split of any TFDS image classification data set.

  Args:
    name: NAME[/CONFIG][:VERSION], as TFDS writes it.
    split: a split expression, such as 'train[:800]'.
    data_dir: where TFDS keeps prepared data; empty: its own default.

  Raises:
    FileNotFoundError: the data set is not prepared; the message says how to.
    ValueError: an unknown data set or split, or one without an image or a label.
  """
  builder = load_builder(name, data_dir)
  image_key, label_key = _keys(builder)
  feature = builder.info.features[label_key]
  dataset = read(
    builder,
    split,
    f'tfds:{name} {split}',
    tuple(feature.names),
    image_of=lambda example, where: rgb(example[image_key], where),
    label_of=lambda example: int(example[label_key]),
  )
  # What `experts.data.imagenet21k` keeps beside the images.
  metadata = builder.info.metadata or {}
  if 'edges' not in metadata:
    return dataset
  return dataclasses.replace(
    dataset,
    read_labels=lambda: _read_labels(builder.info.splits[split].file_instructions),
    edges=tuple((child, parent) for child, parent in metadata['edges']),
    definitions=metadata['definitions'],
  )


def labels_file(shard: str | os.PathLike) -> str:
  """Where the labels of a shard are, int32 [n], so that millions need not be picked out of their images."""
  return f'{os.fspath(shard)}.labels.npy'


def _read_labels(files: Sequence[Any]) -> np.ndarray:
  parts = []
  for file in files:
    labels = np.load(labels_file(file.filename))
    parts.append(labels[file.skip :][: None if file.take == -1 else file.take])
  return np.concatenate(parts)


def rgb(value: bytes | np.ndarray, where: str) -> np.ndarray:
  """An image of an example, compressed or uint8 [H, W, 1 or 3], as uint8 [H, W, 3] RGB."""
  if isinstance(value, bytes):
    return decode(value, where)
  if value.dtype != np.uint8 or value.ndim != 3 or value.shape[-1] not in (1, 3):
    raise UndecodableImage(f'{where}: {value.dtype} {value.shape} is no 8-bit grey or RGB image')
  return value if value.shape[-1] == 3 else np.repeat(value, 3, axis=-1)


def read(
  builder: 'tfds.core.DatasetBuilder',
  split: str,
  name: str,
  class_names: tuple[str, ...],
  image_of: Callable[[Example, str], np.ndarray],
  label_of: Callable[[Example], int],
) -> Dataset:
  """Makes a `Dataset` of a prepared split.

  Args:
    builder: of the TFDS data set.
    split: a split expression.
    name: for messages.
    class_names: names of the classes in label order.
    image_of: (example, what messages call it) -> uint8 [H, W, 3] RGB.
    label_of: example -> its class.

  Raises:
    FileNotFoundError: the data set is not prepared.
    ValueError: no such split.
  """
  source = _source(builder, split)
  where = lambda index: f'example {index} of {name}'
  return Dataset(
    name=name,
    class_names=class_names,
    size=len(source),
    read_image=lambda index: image_of(source[index], where(index)),
    read_labels=lambda: np.array([label_of(source[i]) for i in range(len(source))], np.int64),
    describe=where,
    version=builder.info.full_name,
    identify=lambda: identify(builder, split),
    content=lambda: {'': (len(source), _content(builder, split, class_names))},
  )


def identify(builder: 'tfds.core.DatasetBuilder', split: str) -> str:
  """A digest of a prepared split: its files' names, sizes and times; empty where there are none (under TFDS's mock)."""
  digest = hashlib.sha256(f'{builder.info.full_name} {split}'.encode())
  files = sorted(glob.glob(os.path.join(glob.escape(str(builder.data_dir)), '*record*')))
  for path in files:
    status = os.stat(path)
    digest.update(f'{path} {status.st_size} {status.st_mtime_ns}'.encode())
  return digest.hexdigest() if files else ''


def _content(builder, split, class_names) -> str:
  """A digest of a prepared split that a copy of its files shares: their names and sizes, and the classes."""
  digest = hashlib.sha256(f'{builder.info.full_name} {split} {class_names}'.encode())
  for path in sorted(glob.glob(os.path.join(glob.escape(str(builder.data_dir)), '*record*'))):
    digest.update(f'{os.path.basename(path)} {os.path.getsize(path)}'.encode())
  return digest.hexdigest()[:16]


def load_builder(name: str, data_dir: str) -> 'tfds.core.DatasetBuilder':
  """The builder of NAME[/CONFIG][:VERSION], for array_record unless only TFRecord is there.

  Raises:
    FileNotFoundError: prepared in a format that cannot be read at random, or by the project and not there.
    UnknownVersion: neither prepared nor built by this TFDS.
    ValueError: an unknown data set.
  """
  try:
    return tfds.builder(name, data_dir=data_dir or None, file_format='array_record', try_gcs=False)
  except tfds.core.DatasetNotFoundError as error:
    base = name.partition(':')[0].partition('/')[0]
    begun = glob.glob(os.path.join(glob.escape(data_dir), base, '*.incomplete'))
    if begun or base == 'imagenet21k':
      raise FileNotFoundError(
        f'tfds:{name} is not prepared in {data_dir or "the default data_dir"}'
        f'{f" ({begun[0]} is unfinished)" if begun else ""}; run: python -m experts.data.imagenet21k'
        f' --archive=ARCHIVE --out={data_dir or "DATA_DIR"}'
        f'{"" if base == "imagenet21k" else f" --name={base} --edges=FILE"}'
      ) from error
    known = tfds.list_builders(with_community_datasets=False)
    near = ', '.join(difflib.get_close_matches(base, known, 3)) or 'none is similar'
    raise ValueError(f'TFDS knows no data set {name!r}; the nearest: {near}') from error
  except (ValueError, AssertionError) as error:
    if not any(part in str(error) for part in ('match the file formats', 'format is already set')):
      kind = UnknownVersion if 'cannot be loaded at version' in str(error) else ValueError
      raise kind(f'tfds:{name}: {_first_line(error)}') from error
    builder = tfds.builder(name, data_dir=data_dir or None, try_gcs=False)
    if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
      raise FileNotFoundError(
        f'tfds:{name} is prepared as {builder.info.file_format.value}, which cannot be read at random;'
        f' into another data_dir, run: {_command(name, "ANOTHER_DATA_DIR")}'
      ) from error
    return builder


def choose_builder(
  name: str, versions: Sequence[str], data_dir: str
) -> 'tfds.core.DatasetBuilder | None':
  """The builder of the first of some versions that is prepared, or else that this TFDS can build; None: it can none.

  Args:
    name: NAME[/CONFIG].
    versions: such as '3.0.2' or '3.*.*'.
    data_dir: where TFDS keeps prepared data; empty: its own default.
  """
  buildable = None
  for version in versions:
    try:
      builder = load_builder(f'{name}:{version}', data_dir)
    except UnknownVersion:
      continue
    if builder.info.initialized:  # from files. is_prepared() says the same, with a warning
      return builder
    buildable = buildable or builder
  return buildable


def prepared_versions(name: str, data_dir: str) -> list[str]:
  """The versions of NAME[/CONFIG] that are there, in order."""
  root = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
  infos = glob.glob(os.path.join(glob.escape(os.path.join(root, name)), '*', 'dataset_info.json'))
  folders = [os.path.basename(os.path.dirname(path)) for path in infos]
  versions = [folder for folder in folders if re.fullmatch(r'\d+\.\d+\.\d+', folder)]
  return sorted(versions, key=lambda version: [int(part) for part in version.split('.')])


class _Parsed(Sequence[Example]):
  """Examples of serialised records, as TFDS's own data sources give them."""

  def __init__(self, records: Sequence[bytes], features: 'tfds.features.FeaturesDict'):
    self._records = records
    self._features = features
    self.decoders: Mapping[str, Any] = {}

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Example:
    return self._features.deserialize_example_np(self._records[index], decoders=self.decoders)


def _source(builder: 'tfds.core.DatasetBuilder', split: str) -> Sequence[Example]:
  try:
    if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
      parts = builder.info.splits[split].file_instructions
      source = _Parsed(tfrecords.Records(parts), builder.info.features)
    else:
      source = builder.as_data_source(split=split)
  except Exception as error:  # TFDS raises many kinds
    if not builder.info.initialized:
      raise FileNotFoundError(how_to_prepare(builder)) from error
    raise ValueError(
      f'{builder.info.full_name}: no split {split!r}; it has {", ".join(builder.info.splits)}'
      f' ({_first_line(error)})'
    ) from error
  # Images are decoded here, once asked for. Set after opening, because given to `as_data_source`
  # it makes `tfds.testing.mock_data` encode images, for which it imports TensorFlow.
  source.decoders = {
    key: tfds.decode.SkipDecoding()
    for key, feature in builder.info.features.items()
    if isinstance(feature, tfds.features.Image)
  }
  return source


def how_to_prepare(builder: 'tfds.core.DatasetBuilder') -> str:
  """One line: what to run to prepare a data set, and how large it is."""
  page = manual_page(builder)
  first = f' download it by hand from {page} into {manual_folder(builder)}, then' if page else ''
  return (
    f'{builder.info.full_name} is not prepared ({download_size(builder)});{first}'
    f' run: {command(builder)}'
  )


def command(builder: 'tfds.core.DatasetBuilder') -> str:
  """The shell command that prepares a data set where its builder looks for it."""
  return _command(':'.join(builder.info.full_name.rsplit('/', 1)), _root(builder))


def manual_page(builder: 'tfds.core.DatasetBuilder') -> str:
  """The page from which a data set has to be downloaded by hand; empty if TFDS downloads it."""
  instructions = getattr(builder, 'MANUAL_DOWNLOAD_INSTRUCTIONS', None) or ''
  found = re.search(r'https?://[^\s)\]]+', instructions)
  return found[0] if found else instructions and builder.info.homepage


def manual_folder(builder: 'tfds.core.DatasetBuilder') -> str:
  """Where TFDS looks for what is downloaded by hand."""
  return os.path.join(_root(builder), 'downloads', 'manual')


def _root(builder: 'tfds.core.DatasetBuilder') -> str:
  return str(builder.data_dir).removesuffix(f'/{builder.info.full_name}')


def _command(name: str, data_dir: str) -> str:
  # Not `tfds build`, which wants apache_beam, needed by nothing else here.
  return (
    'python -c "import tensorflow_datasets as tfds;'
    f" tfds.builder('{name}', data_dir='{data_dir}', file_format='array_record')"
    '.download_and_prepare()"'
  )


def download_size(builder: 'tfds.core.DatasetBuilder') -> str:
  """How much there is to download, in words."""
  try:
    files = sum(info.size or 0 for info in builder.url_infos.values())
  except (ImportError, OSError, ValueError):  # no checksums are registered with this TFDS
    files = 0
  if not files or manual_page(builder):
    return 'TFDS does not know its size'
  # The registered files are those of all configurations and mirrors.
  return f'at most {files / 2**30:.2f} GiB to download, and roughly as much once prepared'


def _keys(builder: 'tfds.core.DatasetBuilder') -> tuple[str, str]:
  features = dict(builder.info.features)
  if builder.info.supervised_keys and len(builder.info.supervised_keys) == 2:
    image, label = builder.info.supervised_keys
  else:
    image, label = 'image', 'label'
  if not isinstance(features.get(image), tfds.features.Image) or not isinstance(
    features.get(label), tfds.features.ClassLabel
  ):
    raise ValueError(
      f'{builder.info.full_name}: no image with one class label; its features are'
      f' {", ".join(features)}'
    )
  return image, label


def _first_line(error: BaseException) -> str:
  return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
