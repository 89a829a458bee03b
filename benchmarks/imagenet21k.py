"""Times preparing a tar of tars, against a TFDS builder that reads the same archive.

    python -m benchmarks.imagenet21k --processes=2

The archives are made for the run: noise with the byte sizes of tiny-imagenet's JPEGs (64×64 pixels, about 2 kB) and of
ImageNet's (500×375, about 110 kB), 100 images a class. Each form runs in turn, in processes of its own, start included;
figures are medians. `a core` is images for each second of processor time, which holds on a busy machine too; `peak` is
the memory of the largest process, which must not grow with the images.
The peer checks images as ours does, but gives no ancestors, and cannot go on after an interruption.
"""

import io
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

import cv2
import numpy as np
import tabulate
from absl import app, flags

_PROCESSES = flags.DEFINE_integer('processes', 2, 'Processes of ours; the peer has one.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Medians are of so many.', lower_bound=1)

# height, width, JPEG quality, images
_CASES = ((64, 64, 75, 5_000), (64, 64, 75, 25_000), (375, 500, 90, 2_000), (375, 500, 90, 6_000))
_A_CLASS = 100

_PEER = """
import io, sys, tarfile
import cv2
import numpy as np
import tensorflow_datasets as tfds

class Peer(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    with tarfile.open(sys.argv[1]) as tar:
      names = [name.removesuffix('.tar') for name in tar.getnames()]
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
      'image': tfds.features.Image(), 'label': tfds.features.ClassLabel(names=names)}))

  def _split_generators(self, manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    with tarfile.open(sys.argv[1]) as tar:
      for member in tar:
        with tarfile.open(fileobj=tar.extractfile(member)) as inner:
          for image in inner:
            label = member.name.removesuffix('.tar')
            data = inner.extractfile(image).read()
            if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None:
              yield image.name, {'image': io.BytesIO(data), 'label': label}

Peer(data_dir=sys.argv[2], file_format='array_record').download_and_prepare()
"""


def main(argv):
  del argv
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    (root / 'peer.py').write_text(_PEER)
    for height, width, quality, images in _CASES:
      archive = root / 'archive.tar'
      _write(archive, height, width, quality, images)
      classes = [f'c{number:05d}' for number in range(images // _A_CLASS)]
      (root / 'is-a.txt').write_text(''.join(f'{name}\tthing\n' for name in classes))
      ours = [
        *('-m', 'experts.data.imagenet21k', f'--archive={archive}', f'--edges={root}/is-a.txt'),
        f'--processes={_PROCESSES.value}',
      ]
      found = {'ours': [], 'TFDS': []}
      for number in range(_ROUNDS.value):
        out = root / f'out{images}-{height}-{number}'
        forms = {
          'ours': [*ours, f'--out={out}'],
          'TFDS': [str(root / 'peer.py'), str(archive), f'{out}-peer'],
        }
        for name, arguments in forms.items():
          found[name].append(_run(arguments))
      for name, runs in found.items():
        seconds, processor, peak = (statistics.median(values) for values in zip(*runs))
        rows.append([f'{width}×{height}', images, name, images / seconds, images / processor, peak])
  head = ['pixels', 'images', 'form', 'images/s', 'a core', 'peak MB']
  print(tabulate.tabulate(rows, head, 'github', floatfmt='.0f'))


def _run(arguments: list[str]) -> tuple[float, float, float]:
  """Seconds, seconds of processor time, and the memory of the largest process in MB."""
  start = time.perf_counter()
  process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
  errors = process.stderr.read()
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise RuntimeError(errors.decode()[-2000:])
  processor = usage.ru_utime + usage.ru_stime  # of its children too
  return time.perf_counter() - start, processor, usage.ru_maxrss / 1e3


def _write(path: pathlib.Path, height: int, width: int, quality: int, images: int) -> None:
  """A tar of tars of classes; a few images, repeated."""
  rng = np.random.default_rng(0)
  some = []
  for _ in range(20):
    noise = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 0.75)
    some.append(cv2.imencode('.jpg', noise, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
  with tarfile.open(path, 'w') as tar:
    for number in range(images // _A_CLASS):
      buffer = io.BytesIO()
      with tarfile.open(fileobj=buffer, mode='w') as inner:
        for image in range(_A_CLASS):
          _add(inner, f'c{number:05d}_{image}.JPEG', some[image % len(some)])
      _add(tar, f'c{number:05d}.tar', buffer.getvalue())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
  header = tarfile.TarInfo(name)
  header.size = len(data)
  tar.addfile(header, io.BytesIO(data))


if __name__ == '__main__':
  app.run(main)
