"""WordNet 3.0's nouns, whose offsets are ImageNet's names of classes: what is a what, and what it means."""

import dataclasses
import gzip
import io
import os
import pathlib
import tarfile
import urllib.error
import urllib.request

# Where Debian's and Ubuntu's package wordnet-base puts the file.
_INSTALLED = '/usr/share/wordnet/data.noun'
_URL = 'https://wordnetcode.princeton.edu/3.0/WNdb-3.0.tar.gz'
_NOUNS = 82_115
_HYPERNYMS = ('@', '@i')  # the kind, and of an instance (Paris) its class (capital)


@dataclasses.dataclass(frozen=True, eq=False)
class Nouns:
  """The noun synsets.

  Attributes:
    definitions: name of a synset (such as n02084071) -> 'its words: its gloss'.
    edges: (child, parent) for every hypernym pointer.
  """

  definitions: dict[str, str]
  edges: tuple[tuple[str, str], ...]


def load(source: str = '', url: str = _URL) -> Nouns:
  """Reads the noun file of WordNet 3.0.

  Args:
    source: the file data.noun or data.noun.gz, or a folder that holds it; 'download': from Princeton;
      empty: the one that the package wordnet-base installs.
    url: a gzipped tar with a member data.noun, for 'download'.

  Returns:
    All its synsets.

  Raises:
    FileNotFoundError: there is no such file; the message says where to get it.
    ValueError: the file is not WordNet 3.0's.
  """
  if source == 'download':
    data, where = _download(url), url
  else:
    path = _find(pathlib.Path(source or _INSTALLED).expanduser())
    data, where = path.read_bytes(), str(path)
  if data[:2] == b'\x1f\x8b':
    try:
      data = gzip.decompress(data)
    except (OSError, EOFError) as error:
      raise ValueError(f'{where}: cannot be decompressed ({error}): fetch it again') from error
  nouns = parse(data.decode('utf-8', 'replace'), where)
  if len(nouns.definitions) != _NOUNS:
    raise ValueError(
      f'{where}: {len(nouns.definitions)} noun synsets, but WordNet 3.0 has {_NOUNS}; other releases number'
      ' their synsets in another way than ImageNet'
    )
  return nouns


def parse(text: str, where: str = 'data.noun') -> Nouns:
  """Reads the lines of a noun file (format: wndb(5WN)).

  Args:
    text: its content; lines of the licence at its start begin with a space.
    where: its name, for messages.

  Raises:
    ValueError: a line of another form, or a pointer to a synset that is not there.
  """
  definitions: dict[str, str] = {}
  edges = []
  for number, line in enumerate(text.splitlines(), 1):
    if not line.strip() or line.startswith(' '):
      continue
    try:
      fields, _, gloss = line.partition(' | ')
      # offset, file, kind, number of words (hexadecimal), {word, id}, number of pointers, {symbol, offset, kind, which}
      offset, _, kind, words, *rest = fields.split()
      after = 2 * int(words, 16)
      pointers = rest[after + 1 : after + 1 + 4 * int(rest[after])]
      if kind != 'n' or len(offset) != 8 or len(pointers) != 4 * int(rest[after]):
        raise ValueError
    except (ValueError, IndexError):
      raise ValueError(
        f'{where}, line {number}: {line[:40]!r} is no noun synset of WordNet'
      ) from None
    name = f'n{offset}'
    definitions[name] = f'{", ".join(rest[:after:2]).replace("_", " ")}: {gloss.strip()}'
    edges += [
      (name, f'n{target}')
      for symbol, target in zip(pointers[::4], pointers[1::4])
      if symbol in _HYPERNYMS
    ]
  for child, parent in edges:
    if parent not in definitions:
      raise ValueError(
        f'{where}: {child} is said to be a {parent}, which is not there: is it cut off?'
      )
  return Nouns(definitions, tuple(edges))


def _find(path: pathlib.Path) -> pathlib.Path:
  places = [path / 'data.noun', path / 'data.noun.gz', path / 'dict' / 'data.noun']
  for place in places if path.is_dir() else [path]:
    if place.exists():
      return place
  raise FileNotFoundError(
    f"{path}: WordNet 3.0's nouns are not there: give --wordnet=PATH of its data.noun or data.noun.gz, or"
    ' --wordnet=download, or install the package wordnet-base (Debian, Ubuntu)'
  )


def _download(url: str) -> bytes:
  try:
    with urllib.request.urlopen(url, timeout=60) as answer:
      packed = answer.read()
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
      member = next(m for m in tar if os.path.basename(m.name) == 'data.noun' and m.isfile())
      return tar.extractfile(member).read()
  except (urllib.error.URLError, TimeoutError) as error:
    raise FileNotFoundError(f'{url}: cannot be fetched ({error}): give --wordnet=PATH') from error
  except (StopIteration, tarfile.TarError, EOFError, OSError) as error:
    raise ValueError(f'{url}: is no archive with a data.noun: give --wordnet=PATH') from error
