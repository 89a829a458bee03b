"""Opens people's images: a folder, or a tar or zip archive, of split/class/file, class/file, or files and a table.

What the folders mean is in `layouts`, tables of labels in `tables`, what pixels become in `pixels`.
"""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experts.data import (
  class_folders,
  contents,
  dataset,
  layouts,
  listings,
  packed,
  pixels,
  samples,
  tables,
)
from experts.data.dataset import Dataset, Intake
from experts.data.listings import File, Listing, is_image
from experts.data.names import printable

# Changes with what `pixels` makes of the same bytes, so that nothing computed from other pixels is taken for it.
_DECODER = 'seen 1'


def open_images(path: str | os.PathLike, split: str, published: bool = False) -> Dataset:
  """Opens one split of a folder or archive of images.

  Args:
    path: a folder, or a .tar, .tar.gz, .tgz or .zip archive.
    split: the name of a split: train, validation or test (or what else folders of these are called), or that of a
      first-level folder.
    published: whether pixels are to be those that papers saw: without orientation, transparency or ranges of samples.

  Returns:
    The split's images in the order of their paths. Its classes are those of all splits.

  Raises:
    FileNotFoundError: nothing is at that path.
    ValueError: no images, no split of that name, or a layout or table that cannot be understood.
  """
  listing = _list(_existing(path))
  where = printable(listing.root)
  found = _arrange(listing, where)
  ranges = {} if published else samples.find([image.file for image in found.images])
  if not found.images:
    left = Intake({}, _left_out(listing, found)).left_out_in_words
    raise ValueError(
      f'{where}: holds no image laid out as split/class/file or class/file{left and f" ({left})"}'
    )
  asked = layouts.split_of(split) or split
  if asked not in found.splits:
    odd = ''.join(f'; {note}' for note in found.notes)
    raise ValueError(f'{where}: no split {split!r}; it has {", ".join(sorted(found.splits))}{odd}')
  class_of, names, edges = class_folders.classes(
    {image.folder for image in found.images}, found.empty, where
  )
  chosen = [image for image in found.images if image.split == asked]
  labels = np.array([class_of[image.folder] for image in chosen], np.int32)
  files = [image.file for image in chosen]
  groups = tuple(printable(image.group) for image in chosen)
  return dataclasses.replace(
    _dataset(f'{printable(os.path.basename(listing.root))} {asked}', files, ranges, published),
    class_names=names,
    read_labels=lambda: labels,
    edges=edges,
    intake=_intake(listing, found, ranges, class_of, names),
    groups=groups if any(groups) else (),
    content=lambda: contents.by_class([_below(image) for image in chosen], files, labels, names),
  )


def _intake(
  listing: Listing,
  found: layouts.Arrangement,
  ranges: pixels.Ranges,
  class_of: Mapping[layouts.Path, int],
  names: Sequence[str],
) -> Intake:
  """What there is in all splits; `class_of` and `names` as of `class_folders.classes`."""
  images = collections.Counter(image.split for image in found.images)
  images = dict(sorted(images.items(), key=_rank))
  holds = {(names[class_of[image.folder]], image.split) for image in found.images}
  return Intake(
    images,
    _left_out(listing, found),
    (*listing.notes, *found.notes, *samples.note(ranges)),
    {name: tuple(split for split in images if (name, split) in holds) for name in names},
  )


def _below(image: layouts.Labelled) -> str:
  """What tells an image of a class from others, wherever the class lies: the folders within, and its name."""
  return '/'.join((*image.folder, image.file.name))


def open_unlabelled(
  path: str | os.PathLike, ranges: pixels.Ranges | None = None, published: bool = False
) -> Dataset:
  """Opens all images of a folder or archive, or one image, without labels.

  Args:
    path: a folder, an archive, or an image.
    ranges: of deep samples, as they were where a network was trained; those of these images where it knows none.
    published: whether the network saw the pixels of a paper's data set; see `open_images`.

  Raises:
    FileNotFoundError: nothing is at that path.
    ValueError: no images.
  """
  path = _existing(path)
  # A file that was named is meant, whatever its name.
  single = os.path.isfile(path) and not packed.is_archive(path)
  listing = listings.read_file(path) if single else _list(path)
  files = [file for file in listing.files if single or is_image(file.name)]
  ranges = {} if published else {**samples.find(files), **(ranges or {})}
  left_out = _left_out(listing, layouts.Arrangement())
  intake = Intake({'': len(files)}, left_out, (*listing.notes, *samples.note(ranges)))
  if not files:
    left = intake.left_out_in_words
    raise ValueError(f'{printable(listing.root)}: holds no image{left and f" ({left})"}')
  return dataclasses.replace(
    _dataset(printable(path), files, ranges, published),
    describe=lambda index: printable('/'.join(files[index].parts)),
    intake=intake,
    content=lambda: contents.by_class(
      ['/'.join(file.parts) for file in files], files, [0] * len(files), ['']
    ),
  )


def _dataset(name: str, files: Sequence[File], ranges: pixels.Ranges, published: bool) -> Dataset:
  """The images of files, without labels."""
  read: Callable[[int], np.ndarray]
  if published:
    read = lambda index: dataset.decode(listings.load(files[index]), files[index].where)
  else:
    read = lambda index: pixels.decode(listings.load(files[index]), files[index].where, ranges)
  how = '' if published else f'{_DECODER} {sorted(ranges.items())}'
  return Dataset(
    name=name,
    class_names=(),
    size=len(files),
    read_image=read,
    read_labels=lambda: np.zeros(len(files), np.int32),
    describe=lambda index: files[index].where,
    identify=lambda: _identify(files, how),
    ranges=ranges,
    published=published,
  )


def _existing(path: str | os.PathLike) -> str:
  path = os.path.expanduser(os.fspath(path))
  if not os.path.exists(path):
    raise FileNotFoundError(f'{printable(path)}: no such folder or archive of images')
  # A slash at its end would leave the data set without a name.
  return path.rstrip('/') or path


def _list(path: str) -> Listing:
  return listings.read_folder(path) if os.path.isdir(path) else packed.read_archive(path)


def _arrange(listing: Listing, where: str) -> layouts.Arrangement:
  known = tables.find(listing)
  usable = [folder for folder, each in known.items() if any(table.usable for table in each)]
  tree = layouts.tree(listing)
  root = layouts.enter(tree, usable)
  folders = tables.places(listing, known, root)
  notes = tables.notes(known, folders)
  if folders:
    found = tables.arrange(listing, known, root, folders)
  else:
    try:
      found = layouts.arrange(tree, root, where)
    except ValueError as error:
      # Perhaps it is the table that is wrong.
      raise ValueError('; '.join([str(error), *notes])) from error
  if root:
    notes.insert(0, f'{printable("/".join(root))}/ is entered: all images lie in it')
  found.notes[:0] = notes
  return found


def _left_out(listing: Listing, found: layouts.Arrangement) -> dict[str, int]:
  """Why files are not read -> how many, the most first."""
  left_out = listing.passed + found.left_out
  for file in listing.files:
    # The table, or an image that it names whatever its suffix.
    if file.name.lower() not in tables.NAMES and (why := listings.why_not(file.name)):
      left_out[why] += 1
  for image in found.images:
    if why := listings.why_not(image.file.name):
      left_out[why] -= 1
  return dict(sorted((+left_out).items(), key=lambda each: (-each[1], each[0])))


def _rank(split: tuple[str, int]) -> tuple[int, str]:
  order = ('train', 'validation', 'test')
  return order.index(split[0]) if split[0] in order else len(order), split[0]


def _identify(files: Sequence[File], how: str) -> str:
  """A digest of the images' names, and of the sizes and times of the files that hold them."""
  digest = hashlib.sha256(os.fsencode('\0'.join(file.where for file in files)) + how.encode())
  for within in sorted({file.within for file in files}):
    digest.update(os.fsencode(f'\0{os.path.realpath(within)}\0{_state(within)}'))
  return digest.hexdigest()


def _state(path: str) -> str:
  try:
    status = os.stat(path)
  except OSError:
    return 'gone'
  return f'{status.st_size} {status.st_mtime_ns}'
