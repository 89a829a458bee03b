"""The range of deep samples (10 to 16 bits, signed ones, floats) over a whole data set.

One range for all images, of all splits, test included: scaled each by its own, a dark image would look like a bright
one. So of the test images the extremes are known beforehand, and nothing else.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from experts.data import headers, pixels
from experts.data.listings import File

# The suffixes of formats that may have deep samples, and how many bytes tell: all of a TIFF's, whose header may be last.
_HEADS = {
  '.png': 64,
  '.pgm': 512,
  '.ppm': 512,
  '.pnm': 512,
  '.jp2': 512,
  '.tif': None,
  '.tiff': None,
}
# Of so many images, evenly spread over the data set, the extremes are looked up.
_LOOKED_AT = 1000
_BITS = (8, 10, 12, 14, 16)


@dataclasses.dataclass(frozen=True)
class _Files:
  key: str
  files: tuple[File, ...] = dataclasses.field(compare=False)


def find(files: Sequence[File]) -> pixels.Ranges:
  """Which sample is black and which is white, for each type of deep samples.

  Unsigned 16-bit samples have as many bits as the largest needs, of 8, 10, 12, 14 and 16. Floats in [0, 1] keep that
  range. All others go from the smallest to the largest.

  Args:
    files: all images of a source, of all its splits.
  """
  chosen = tuple(file for file in files if os.path.splitext(file.name)[1].lower() in _HEADS)
  digest = hashlib.blake2b()
  for file in chosen:
    try:
      status = os.stat(file.within)
      digest.update(f'{status.st_size} {status.st_mtime_ns} '.encode())
    except OSError:
      pass
    digest.update(os.fsencode(f'{file.within}\0{"/".join(file.parts)}\0'))
  return _find(_Files(digest.hexdigest(), chosen)) if chosen else {}


def note(ranges: pixels.Ranges) -> tuple[str, ...]:
  """A line for each type of samples that is scaled."""
  return tuple(
    f'{name} samples are scaled alike in all images: {black:,.6g} becomes 0, {white:,.6g} becomes 255'
    for name, (black, white) in sorted(ranges.items())
  )


@functools.lru_cache(maxsize=4)
def _find(candidates: _Files) -> pixels.Ranges:
  with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
    files = candidates.files
    deep = [file for file, yes in zip(files, pool.map(_is_deep, files)) if yes]
    # At equal distances, the first and the last among them.
    spread = np.unique(np.linspace(0, len(deep) - 1, min(len(deep), _LOOKED_AT)).astype(int))
    extremes: dict[str, list[tuple[float, float]]] = {}
    for found in pool.map(_extremes, [deep[index] for index in spread]):
      if found:
        extremes.setdefault(found[0], []).append(found[1:])
  return {
    name: _range(name, min(low for low, _ in each), max(high for _, high in each))
    for name, each in extremes.items()
  }


def _is_deep(file: File) -> bool:
  try:
    return not headers.white(file.read(_HEADS[os.path.splitext(file.name)[1].lower()]))
  except (OSError, ValueError):
    return False


def _extremes(file: File) -> tuple[str, float, float] | None:
  try:
    image = pixels.deep_samples(file.read(None))
  except (OSError, ValueError):
    return None
  if image is None:
    return None
  name = image.dtype.name
  known = image[np.isfinite(image)] if image.dtype.kind == 'f' else image
  return (name, float(known.min()), float(known.max())) if known.size else (name, 0.0, 0.0)


def _range(name: str, low: float, high: float) -> tuple[float, float]:
  if name == 'uint16':
    return 0.0, 2.0 ** next(bits for bits in _BITS if high < 2**bits) - 1
  if name.startswith('float') and low >= 0 and high <= 1:
    return 0.0, 1.0
  return low, high
