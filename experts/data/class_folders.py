"""Classes by the folders that images lie in, and the is-a graph of the folders that group them."""

import collections
import itertools
import unicodedata
from collections.abc import Iterable

from experts.data.names import printable

Path = tuple[str, ...]


def classes(
  with_images: Iterable[Path], empty: Iterable[Path], where: str
) -> tuple[dict[Path, int], tuple[str, ...], tuple[tuple[str, str], ...]]:
  """Names the classes of a data set.

  Args:
    with_images: the folders that images lie in, below a split.
    empty: folders that hold nothing: classes too, which a task then refuses.
    where: the source, for messages.

  Returns:
    Folder -> label; the classes' names, sorted; the (child, parent) names of nested folders.

  Raises:
    ValueError: names of two classes look the same.
  """
  folders = sorted({*with_images, *empty})
  by_name = collections.defaultdict(list)
  for folder in folders:
    by_name[folder[-1]].append(folder)
  name_of = {}
  for name, spelled in by_name.items():
    groups = _same_class(spelled)
    for group in groups:
      longest = max(group, key=len)
      for folder in group:
        name_of[folder] = name if len(groups) == 1 else '/'.join(longest)
  _refuse_lookalikes(set(name_of.values()), where)
  name_of = {folder: printable(name) for folder, name in name_of.items()}
  names = tuple(sorted(set(name_of.values())))
  label = {name: index for index, name in enumerate(names)}
  return {f: label[n] for f, n in name_of.items()}, names, _edges(name_of)


def _refuse_lookalikes(names: Iterable[str], where: str) -> None:
  """Refuses two names that are written alike once their bytes are spelled out or their accents composed."""
  seen: dict[str, str] = {}
  for name in sorted(names):
    look = unicodedata.normalize('NFC', printable(name))
    if look in seen:
      raise ValueError(
        f'{where}: two classes are both written {look!r} ({seen[look]!a} and {name!a}): rename one'
      )
    seen[look] = name


def _same_class(folders: list[Path]) -> list[list[Path]]:
  """Groups folders of one innermost name: alike where one's ancestors contain the other's."""
  groups = [[folder] for folder in folders]
  for first, second in itertools.combinations(folders, 2):
    above, below = set(first[:-1]), set(second[:-1])
    if above <= below or below <= above:
      one = next(group for group in groups if first in group)
      other = next(group for group in groups if second in group)
      if one is not other:
        groups.remove(other)
        one.extend(other)
  return groups


def _edges(name_of: dict[Path, str]) -> tuple[tuple[str, str], ...]:
  """(child, parent) names; a group's name is its folder's, or its path where that is taken."""
  groups = {f[:depth] for f in name_of for depth in range(1, len(f))} - set(name_of)
  count = collections.Counter(group[-1] for group in groups)
  taken = set(name_of.values())
  node = dict(name_of)
  for group in groups:
    short = printable(group[-1])
    unique = count[group[-1]] == 1 and short not in taken
    node[group] = short if unique else printable('/'.join(group)) + '/'
  paths: Iterable[Path] = {f[:depth] for f in name_of for depth in range(2, len(f) + 1)}
  edges = {(node[path], node[path[:-1]]) for path in paths}
  return tuple(sorted(edge for edge in edges if edge[0] != edge[1]))
