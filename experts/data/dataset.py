"""Random-access labelled images: the one form that every source of data takes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import cv2
import numpy as np

from experts.data import transforms
from experts.data.names import some

# What a user can do about an UndecodableImage.
MEND = 'repair or remove it, or pass over such images with --config.image.undecodable=skip'


class UndecodableImage(ValueError):
  """An image cannot be read or decoded; the message names the file or index."""


@dataclasses.dataclass(frozen=True)
class Intake:
  """What a source of files was found to hold, all splits together.

  Attributes:
    splits: images of each split.
    left_out: what was not read and why -> files, e.g. {'.HEIC (needs pillow-heif)': 30, 'no suffix': 10}.
    notes: a line each on what was decided: a wrapping folder entered, odd folders, Training/ taken as train, the range
      of samples.
    classes: the splits that hold images of each class.
  """

  splits: Mapping[str, int]
  left_out: Mapping[str, int]
  notes: tuple[str, ...] = ()
  classes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

  @property
  def left_out_in_words(self) -> str:
    """Such as '30 .HEIC (needs pillow-heif), 10 no suffix'; empty where all was read."""
    return ', '.join(f'{number} {why}' for why, number in self.left_out.items())


class Memory(Protocol):
  """Images that were decoded before, resized."""

  def get(self, index: int, size: transforms.Resize) -> np.ndarray | None:
    """uint8 [side, side, 3], or nothing where it is not held."""

  def holds(self, indices: np.ndarray, size: transforms.Resize | None) -> bool:
    """Whether all of these are."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """The labelled images of one split, by index.

  Attributes:
    name: what messages call it, e.g. 'images:flowers5.tar.gz train'.
    class_names: the names of the classes, in label order; the same in every split of a source.
    size: number of images.
    read_image: index -> uint8 [H, W, 3] RGB. Called from several threads.
    read_labels: () -> int [size]; called once, on first use, and without decoding images.
    describe: index -> the file, or the index, for messages.
    edges: the (child, parent) names of the is-a graph over the classes, empty where there is none.
    in_memory: reading an image costs next to nothing.
    definitions: what some of the is-a graph's names mean.
    version: the prepared data set and its version, such as 'oxford_iiit_pet/4.0.0', where it is one of TFDS.
    identify: () -> what tells these images, in this order, from others without reading them; '' where nothing does.
    content: () -> what tells them from others wherever they lie: {class: (images, digest)}; of prepared data, which has
      files of many classes, {'': …}; none of what is drawn or was handed over.
    intake: what was found where these images lie, where that is a folder or archive of files.
    ranges: the type of deep samples -> what is black and what is white, for all splits of a folder or archive.
    groups: of every image what it belongs together with, such as the person that it shows; empty where nothing tells.
    memory: what of it was decoded before, if anything.
    published: whether others published it, with the splits and the pixels that papers used; not so are people's own
      folders and archives.
  """

  name: str
  class_names: tuple[str, ...]
  size: int
  read_image: Callable[[int], np.ndarray]
  read_labels: Callable[[], np.ndarray]
  describe: Callable[[int], str]
  edges: tuple[tuple[str, str], ...] = ()
  in_memory: bool = False
  definitions: Mapping[str, str] = dataclasses.field(default_factory=dict)
  version: str = ''
  identify: Callable[[], str] = lambda: ''
  content: Callable[[], Mapping[str, tuple[int, str]]] = dict
  intake: Intake | None = None
  ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
  groups: tuple[str, ...] = ()
  memory: Memory | None = None
  published: bool = True

  def __len__(self) -> int:
    return self.size

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """The label of every image, int32 [size]."""
    labels = np.ascontiguousarray(self.read_labels(), dtype=np.int32)
    labels.setflags(write=False)
    return labels

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  def image(self, index: int) -> np.ndarray:
    """Decodes one image to uint8 [H, W, 3] RGB; raises UndecodableImage, also where its file cannot be read."""
    try:
      return self.read_image(int(index))
    except OSError as error:
      reason = error.strerror or str(error)
      raise UndecodableImage(f'{self.where(index)}: cannot be read ({reason})') from error

  def resized(self, index: int, size: transforms.Resize) -> np.ndarray:
    """A resized image, uint8 [side, side, 3], from memory where it is held; raises UndecodableImage."""
    held = self.memory.get(int(index), size) if self.memory else None
    return size(self.image(index)) if held is None else held

  def label(self, index: int) -> int:
    return int(self.labels[index])

  def where(self, index: int) -> str:
    return self.describe(int(index))


def from_arrays(
  name: str,
  images: np.ndarray,
  labels: np.ndarray,
  class_names: tuple[str, ...],
  edges: tuple[tuple[str, str], ...] = (),
) -> Dataset:
  """A data set held in memory.

  Args:
    name: what messages call it.
    images: uint8 [N, H, W, 3] RGB.
    labels: int [N], in [0, len(class_names)).
    class_names: the classes in label order.
    edges: (child, parent) names of the is-a graph.

  Raises:
    ValueError: images are not uint8 [N, H, W, 3], or a label has no class.
  """
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(
      f'{name}: images must be uint8 [N, H, W, 3], not {images.dtype} {images.shape}'
    )
  if len(images) != len(labels):
    raise ValueError(f'{name}: {len(images)} images but {len(labels)} labels')
  bad = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
  if bad.size:
    raise ValueError(
      f'{name}: image {bad[0]} has label {labels[bad[0]]}, outside 0..{len(class_names) - 1}'
    )
  return Dataset(
    name=name,
    class_names=class_names,
    size=len(images),
    read_image=lambda index: images[index],
    read_labels=lambda: labels,
    describe=lambda index: f'image {index} of {name}',
    edges=edges,
    in_memory=True,
  )


def join(name: str, parts: Sequence[Dataset]) -> Dataset:
  """One split of a source after the other."""
  ends = np.cumsum([len(part) for part in parts])

  def place(index: int) -> tuple[Dataset, int]:
    which = int(np.searchsorted(ends, index, side='right'))
    return parts[which], index - int(ends[which]) + len(parts[which])

  def describe(index: int) -> str:
    part, row = place(index)
    return part.where(row)

  def read(index: int) -> np.ndarray:
    part, row = place(index)
    return part.image(row)

  return dataclasses.replace(
    parts[0],
    name=name,
    size=int(ends[-1]),
    read_image=read,
    read_labels=lambda: np.concatenate([part.labels for part in parts]),
    describe=describe,
    identify=lambda: ' '.join(part.identify() for part in parts),
    content=lambda: _content([part.content() for part in parts]),
    groups=_groups(parts),
  )


def _groups(parts: Sequence[Dataset]) -> tuple[str, ...]:
  if not any(part.groups for part in parts):
    return ()
  return tuple(group for part in parts for group in part.groups or ('',) * len(part))


def _content(parts: Sequence[Mapping[str, tuple[int, str]]]) -> dict[str, tuple[int, str]]:
  names = dict.fromkeys(name for part in parts for name in part)
  found = {name: [part[name] for part in parts if name in part] for name in names}
  return {
    name: (sum(number for number, _ in each), '+'.join(digest for _, digest in each))
    for name, each in found.items()
  }


def decode(data: bytes, where: str) -> np.ndarray:
  """Decodes a compressed image of any depth and colour model.

  Grey, palette, alpha, CMYK and 16-bit images all become 8-bit RGB (alpha is dropped). The
  orientation tag is ignored, as TensorFlow's decoders do, so that pixels are those the published
  models were measured on. People's own images are decoded by `pixels.decode`.

  Args:
    data: the file's bytes.
    where: the file's name or index, for the message.

  Returns:
    uint8 [H, W, 3] RGB.

  Raises:
    UndecodableImage: the bytes are no complete image of a known format.
  """
  image = None
  if data:
    try:
      image = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
      )
    except cv2.error:  # e.g. a header that claims an image too large to allocate
      image = None
  if image is None:
    raise UndecodableImage(f'{where}: cannot be decoded as an image ({len(data)} bytes)')
  return image


def check_task(dataset: Dataset, needed: int, every_class: bool = True) -> None:
  """Refuses data on which a task cannot be trained.

  Args:
    dataset: the training split.
    needed: the images that the protocol takes from it.
    every_class: whether each class must have an image. The first 1,000 of a VTAB task may miss some (sun397 has 397).

  Raises:
    ValueError: one class only, a class without an image, or fewer images than needed.
  """
  if dataset.num_classes < 2:
    raise ValueError(
      f'{dataset.name}: one class only ({", ".join(dataset.class_names) or "none"}):'
      ' a task needs at least two'
    )
  empty = np.flatnonzero(np.bincount(dataset.labels, minlength=dataset.num_classes) == 0)
  if every_class and empty.size:
    raise ValueError(f'{dataset.name}: no image of class {_without_images(dataset, empty)}')
  if len(dataset) < needed:
    raise ValueError(
      f'{dataset.name}: {len(dataset)} images, but the split needs {needed}:'
      ' add images, or ask for a smaller split'
    )


def _without_images(dataset: Dataset, empty: Sequence[int]) -> str:
  """The names of some classes, where else they have images, and what to do."""
  known = dataset.intake.classes if dataset.intake else {}
  splits = {name: known.get(name, ()) for name in (dataset.class_names[label] for label in empty)}
  said = [
    repr(name) + (f' (its images are in {" and ".join(where)})' if where else '')
    for name, where in splits.items()
  ]
  mend = 'add images, or remove the empty class'
  if any(splits.values()):
    mend = 'add images to this split, or remove the class from all splits'
  return f'{some(said)}: {mend}'
