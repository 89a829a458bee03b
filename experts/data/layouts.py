"""What the folders of a source mean: splits, classes, groups of classes, or nothing.

A folder that holds images is a class; what lies below it is odd, is named and left out. Folders above classes are
splits if one of them is called like a split (train, training; val, valid, validation, dev; test, testing; in any
case), or if all of them hold the same classes; else they group the classes, and all is one split, 'train'. Splits of
those names are called 'train', 'validation' and 'test', others as their folder. A sole folder around all this is
entered, as often as there is one.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from experts.data.listings import File, Listing, is_image
from experts.data.names import printable, some

Path = tuple[str, ...]

SPLITS = {
  'train': 'train',
  'training': 'train',
  'val': 'validation',
  'valid': 'validation',
  'validation': 'validation',
  'dev': 'validation',
  'test': 'test',
  'testing': 'test',
}
_BESIDE = 'in no class folder'
_BELOW = 'in a folder below a class'


@dataclasses.dataclass(frozen=True)
class Labelled:
  """An image with its split, and the folders that tell its class.

  Attributes:
    file: the image.
    split: its split.
    folder: the names of the groups of its class, and of its class.
    group: what it must not be parted from, such as the person that it shows; '' where nothing tells.
  """

  file: File
  split: str
  folder: Path
  group: str = ''


@dataclasses.dataclass
class Arrangement:
  """What a source was found to hold.

  Attributes:
    images: those that belong to a class of a split.
    empty: the folders of classes without images.
    left_out: why images were left out -> how many.
    notes: a line on each decision of which the user should know.
    splits: the splits that are there, whether or not they hold images.
  """

  images: list[Labelled] = dataclasses.field(default_factory=list)
  empty: set[Path] = dataclasses.field(default_factory=set)
  left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  notes: list[str] = dataclasses.field(default_factory=list)
  splits: set[str] = dataclasses.field(default_factory=set)


def split_of(name: str) -> str:
  """The split that a folder's name means; '' for none."""
  return SPLITS.get(name.casefold(), '')


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
  """The images of a source by folder, and the folders by folder."""

  images: dict[Path, list[File]]
  children: dict[Path, list[str]]

  def below(self, folder: Path) -> list[Path]:
    """The folders in a folder."""
    return [(*folder, name) for name in self.children.get(folder, ())]


def tree(listing: Listing) -> Tree:
  images, children = collections.defaultdict(list), collections.defaultdict(set)
  for file in listing.files:
    if is_image(file.name):
      images[file.parts[:-1]].append(file)
  for folder in listing.folders:
    for depth in range(len(folder)):
      children[folder[:depth]].add(folder[depth])
  return Tree(dict(images), {folder: sorted(names) for folder, names in children.items()})


def enter(found: Tree, tables: Iterable[Path]) -> Path:
  """The folder that the layout begins in: below all that only wrap it.

  Args:
    found: what is there.
    tables: the folders that hold a table of labels.
  """
  tables, at = set(tables), ()
  while True:
    inner = found.below(at)
    if len(inner) != 1 or at in found.images or at in tables:
      return at
    (child,) = inner
    within = [folder[-1] for folder in found.below(child)]
    if child not in tables and (child in found.images or not within):
      return at  # a sole class
    if split_of(child[-1]) and not any(map(split_of, within)):
      return at
    at = child


def arrange(found: Tree, root: Path, where: str) -> Arrangement:
  """Tells splits and classes by their folders.

  Args:
    found: what is there.
    root: the folder that the layout begins in.
    where: the source, for messages.

  Raises:
    ValueError: images lie in no class folder, or two folders mean one split.
  """
  result = Arrangement()
  first = found.below(root)
  _refuse_flat(found, root, first, where)
  _leave_out(result, found, [root], _BESIDE)
  named = [folder for folder in first if split_of(folder[-1])]
  splits = _splits(found, first, named)
  if not splits:
    # Test images without labels, beside class folders.
    _leave_out(result, found, named, _BESIDE)
    classes = [folder for folder in first if folder not in named]
    _classes(result, found, {'train': (root, classes)})
    return result
  by_split = collections.defaultdict(list)
  for folder in splits:
    by_split[split_of(folder[-1]) or printable(folder[-1])].append(folder)
  for split, folders in by_split.items():
    if len(folders) > 1:
      names = ' and '.join(printable(folder[-1]) + '/' for folder in folders)
      raise ValueError(f'{where}: {names} both mean the split {split!r}: join them, or rename one')
    if split != folders[0][-1]:
      result.notes.append(f'{printable(folders[0][-1])}/ is taken as the split {split!r}')
  _leave_out(result, found, first, _BESIDE)
  begin = {split: _doubled(found, folders[0]) for split, folders in by_split.items()}
  _classes(result, found, {split: (at, found.below(at)) for split, at in begin.items()})
  return result


def _refuse_flat(found: Tree, root: Path, first: Sequence[Path], where: str) -> None:
  flat = [folder for folder in first if not found.below(folder)]
  in_train = [
    folder for folder in flat if split_of(folder[-1]) == 'train' and folder in found.images
  ]
  if in_train:
    (train, *_), example = in_train, found.images[in_train[0]][0].name
    name = printable(train[-1])
    raise ValueError(
      f'{where}: {name}/ names a split, not a class, and its images lie in no class folder: make'
      f' {name}/CLASS/FILE, or put a table labels.csv beside it: the line "file,label", then one for each image,'
      f' such as "{name}/{printable(example)},cat"'
    )
  if root in found.images and not first:
    example = printable(found.images[root][0].name)
    raise ValueError(
      f'{where}: its images lie in no class folder: put those of each class into a folder of its own (CLASS/FILE),'
      f' or a table labels.csv beside them: the line "file,label", then one for each image, such as "{example},cat"'
    )


def _splits(found: Tree, first: Sequence[Path], named: Sequence[Path]) -> list[Path]:
  """The folders that are splits; none where they are classes or groups of classes."""
  deep = [folder for folder in first if found.below(folder)]
  if any(folder in deep for folder in named):
    return [folder for folder in deep if folder in named or _below(found, folder)]
  classes = {_below(found, folder) for folder in first}
  same = len(classes) == 1 and frozenset() not in classes
  return list(first) if same and len(first) > 1 and not set(first) & set(found.images) else []


def _below(found: Tree, folder: Path) -> frozenset[Path]:
  """The folders below a folder that hold images, relative to it."""
  return frozenset(
    path[len(folder) :] for path in _all(found, folder) if path in found.images and path != folder
  )


def _all(found: Tree, folder: Path) -> list[Path]:
  """A folder and all below it."""
  paths, todo = [], [folder]
  while todo:
    paths.append(todo.pop())
    todo.extend(found.below(paths[-1]))
  return paths


def _doubled(found: Tree, folder: Path) -> Path:
  """Enters train/train, as some archives have it."""
  while folder not in found.images:
    inner = found.below(folder)
    if len(inner) != 1 or not split_of(inner[0][-1]) or not found.below(inner[0]):
      break
    if split_of(inner[0][-1]) != split_of(folder[-1]):
      break
    folder = inner[0]
  return folder


def _classes(
  result: Arrangement, found: Tree, begin: dict[str, tuple[Path, Sequence[Path]]]
) -> None:
  """Adds the images below each split: (where its layout begins, the folders there that count)."""
  folders = {
    split: {path[len(at) :]: path for folder in inner for path in sorted(_all(found, folder))}
    for split, (at, inner) in begin.items()
  }
  # What holds images in one split is a class in all.
  classes = {
    path for each in folders.values() for path, full in each.items() if full in found.images
  }
  odd = []
  for split, each in folders.items():
    result.splits.add(split)
    for path, full in each.items():
      if any(path[:depth] in classes for depth in range(1, len(path))):
        odd += [full] if full in found.images else []
      elif full in found.images:
        result.images += [Labelled(file, split, path) for file in found.images[full]]
      elif not found.below(full):
        result.empty.add(path)
  _leave_out(result, found, odd, _BELOW)
  result.empty -= classes
  result.images.sort(key=lambda image: image.file.parts)


def _leave_out(result: Arrangement, found: Tree, folders: Sequence[Path], reason: str) -> None:
  """Counts and names the images that lie in folders, not below them."""
  folders = [folder for folder in folders if folder in found.images]
  number = sum(len(found.images[folder]) for folder in folders)
  if number:
    names = some(printable('/'.join(folder) or '.') + '/' for folder in folders)
    result.left_out[reason] += number
    result.notes.append(f'{names}: {number} images {reason} are left out')
