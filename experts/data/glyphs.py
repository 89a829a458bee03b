"""Glyphs: the data that comes with the program, drawn from the fonts that Matplotlib ships.

The upstream set is several hundred characters of many scripts, with the is-a hierarchy of Unicode.
Its tasks are real scans of handwritten digits pasted with the same variation, an alphabet in a font
that the upstream set does not show, and the orientation of letters in that font.
"""

import dataclasses
import functools
import itertools
import unicodedata

import numpy as np

from experts.data import glyph_render
from experts.data.dataset import Dataset, from_arrays

SETS = ('upstream', 'digits', 'alphabet', 'orientation')
SPLITS = ('train', 'test')
TASK_IMAGES = 1000  # of a task's training split, as VTAB-1k's
HELD_OUT_FONT = 'STIXGeneral'
_FONTS = (
  *(
    f'DejaVu{family}{style}'
    for family, slant in (('Sans', 'Oblique'), ('SansMono', 'Oblique'), ('Serif', 'Italic'))
    for style in ('', '-Bold', f'-{slant}', f'-Bold{slant}')
  ),
  *('STIXGeneralItalic', 'STIXGeneralBol', 'STIXGeneralBolIta'),
)
_GREEK = 'αβγδεζηθικλμνξοπρστυφχψω'
# No capital of these looks like another one turned.
_TURNED = 'AEFGJKPQRTY'
_ANGLES = tuple(range(0, 360, 45))


@dataclasses.dataclass(frozen=True)
class _Block:
  """Code points that share a number of training images."""

  ranges: tuple[tuple[int, int], ...]
  images: int
  words: tuple[str, ...] = ()  # the Unicode name holds one of these
  kinds: str = 'LNPS'  # first letters of the Unicode categories


# The shares make every large node a slice worth an expert, and none more than a fifth.
_BLOCKS = (
  _Block(((0x30, 0x39),), 3600),
  _Block(((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x17F)), 6000, ('LATIN',)),
  _Block(((0x391, 0x3C9), (0x3D1, 0x3D6)), 5000, ('GREEK',)),
  _Block(((0x400, 0x45F),), 5000, ('CYRILLIC',)),
  _Block(((0x531, 0x587),), 3000, ('SMALL LETTER', 'CAPITAL LETTER')),
  _Block(((0x10D0, 0x10F0),), 2000),
  _Block(((0xBC, 0xBE), (0x2150, 0x216B)), 1400, ('FRACTION', 'ROMAN')),
  _Block(((0x2190, 0x21FF),), 4500, ('ARROW',)),
  _Block(((0x2200, 0x228B),), 4500),
  _Block(((0x25A0, 0x25D7),), 2000),
  _Block(((0x21, 0x7E), (0xA1, 0xBF), (0x20A0, 0x20AC)), 1500, kinds='PS'),
)


def open_glyphs(name: str, split: str) -> Dataset:
  """Draws (once a process) and opens one split.

  Args:
    name: one of SETS.
    split: 'train' or 'test'.

  Returns:
    Images [32, 32, 3]; the same ones on every call and in every process.

  Raises:
    ValueError: an unknown set or split.
  """
  if name not in SETS:
    raise ValueError(f'no glyph set {name!r}; there are {", ".join(SETS)}')
  if split not in SPLITS:
    raise ValueError(f'glyphs:{name} has no split {split!r}; it has {", ".join(SPLITS)}')
  draw = {
    'upstream': _upstream,
    'digits': _digits,
    'alphabet': _alphabet,
    'orientation': _orientation,
  }
  return draw[name](split)


def _rng(name: str, split: str) -> np.random.Generator:
  return np.random.default_rng([SETS.index(name), SPLITS.index(split)])


@functools.cache
def _alphabet_of_upstream() -> tuple[tuple[str, int], ...]:
  """(character, training images) in code order within blocks."""
  chosen, drawn = [], set()
  taken: set[str] = set()
  for block in _BLOCKS:
    members = []
    for first, last in block.ranges:
      for character in map(chr, range(first, last + 1)):
        if character in taken or not _belongs(character, block):
          continue
        # A capital alpha is drawn exactly as a Latin A: no image could tell them apart.
        look = glyph_render.ink(_FONTS[0], character)
        if (look.shape, look.tobytes()) in drawn:
          continue
        drawn.add((look.shape, look.tobytes()))
        taken.add(character)
        members.append(character)
    share, rest = divmod(block.images, len(members))
    chosen += [(character, share + (i < rest)) for i, character in enumerate(members)]
  return tuple(chosen)


def _belongs(character: str, block: _Block) -> bool:
  name = unicodedata.name(character, '')
  return (
    bool(name)
    and (not block.words or any(word in name for word in block.words))
    # Accented letters would differ from the plain ones by a pixel or two at this size.
    and (not unicodedata.category(character).startswith('L') or not _accented(character))
    and unicodedata.category(character)[0] in block.kinds
    and sum(character in glyph_render.characters(font) for font in _FONTS) >= 8
    and character in glyph_render.characters(_FONTS[0])
  )


def _accented(character: str) -> bool:
  parts = unicodedata.decomposition(character)
  return bool(parts) and not parts.startswith('<')


def is_a(character: str) -> tuple[str, ...]:
  """The nodes above a character by its Unicode name and category, nearest first.

  >>> is_a('A')
  ('latin capital letter', 'latin letter', 'letter', 'character')
  """
  name, category = unicodedata.name(character).lower(), unicodedata.category(character)
  if category[0] == 'L':
    script = name.split()[0]
    case = {'Lu': 'capital', 'Ll': 'small'}.get(category)
    cased = (f'{script} {case} letter',) if case and 'letter' in name else ()
    return (*cased, f'{script} letter', 'letter', 'character')
  if category[0] == 'N':
    kind = 'digit' if category == 'Nd' else 'fraction' if 'fraction' in name else 'roman numeral'
    return (kind, 'number', 'character')
  if category[0] == 'P':
    return ('punctuation', 'character')
  if 'arrow' in name or 'harpoon' in name:
    return ('arrow', 'symbol', 'character')
  kind = {'Sm': 'mathematical symbol', 'Sc': 'currency symbol'}.get(category, 'other symbol')
  return (kind, 'symbol', 'character')


@functools.cache
def _upstream(split: str) -> Dataset:
  rng = _rng('upstream', split)
  chosen = _alphabet_of_upstream()
  # The test split has a tenth of the images, at least four of a character.
  number = [n if split == 'train' else max(4, n // 10) for _, n in chosen]
  labels = rng.permutation(np.repeat(np.arange(len(chosen)), number))
  shapes = [
    [
      glyph_render.glyph(font, character)
      for font in _FONTS
      if character in glyph_render.characters(font)
    ]
    for character, _ in chosen
  ]
  pick = rng.random(len(labels))
  drawn = [shapes[label][int(p * len(shapes[label]))] for label, p in zip(labels, pick)]
  edges = []
  for character, _ in chosen:
    chain = (character, *is_a(character))
    edges += itertools.pairwise(chain)
  return from_arrays(
    f'glyphs:upstream {split}',
    glyph_render.paste(drawn, rng),
    labels,
    tuple(character for character, _ in chosen),
    tuple(sorted(set(edges))),
  )


@functools.cache
def _digits(split: str) -> Dataset:
  from sklearn.datasets import load_digits

  scans = load_digits()
  order = np.random.default_rng(0).permutation(len(scans.target))
  order = order[:TASK_IMAGES] if split == 'train' else order[TASK_IMAGES:]
  drawn = []
  for scan in scans.images[order]:
    # Grey levels are 0..16, at 8x8.
    drawn.append(glyph_render.shape((scan * (255 / 16)).astype(np.uint8), 1.0))
  return from_arrays(
    f'glyphs:digits {split}',
    glyph_render.paste(drawn, _rng('digits', split)),
    scans.target[order],
    tuple('0123456789'),
  )


@functools.cache
def _alphabet(split: str) -> Dataset:
  rng = _rng('alphabet', split)
  labels = rng.permutation(np.arange(TASK_IMAGES) % len(_GREEK))
  drawn = [glyph_render.glyph(HELD_OUT_FONT, _GREEK[label]) for label in labels]
  return from_arrays(
    f'glyphs:alphabet {split}', glyph_render.paste(drawn, rng), labels, tuple(_GREEK)
  )


@functools.cache
def _orientation(split: str) -> Dataset:
  rng = _rng('orientation', split)
  labels = rng.permutation(np.arange(TASK_IMAGES) % len(_ANGLES))
  letters = rng.integers(len(_TURNED), size=TASK_IMAGES)
  drawn = [glyph_render.glyph(HELD_OUT_FONT, _TURNED[letter]) for letter in letters]
  # Half of the usual turn: neighbouring classes must not meet.
  images = glyph_render.paste(drawn, rng, np.array(_ANGLES)[labels], turn=10.0)
  names = tuple(f'{angle} degrees' for angle in _ANGLES)
  return from_arrays(f'glyphs:orientation {split}', images, labels, names)
