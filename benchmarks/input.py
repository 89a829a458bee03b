"""Times the input side of training against tf.data doing the same work.

    python -m benchmarks.input --batch=64 --step_ms=12.8

The work: read a JPEG of ImageNet's typical size (500×375 pixels, about 110 kB), decode it, take an
Inception crop, resize it to 224×224, mirror every second one, batch as uint8. The files are made
for the run, with the 1/f spectrum of photographs (Field 1987), quality 90 and 4:2:0 chroma.

All forms run in turn, with equal threads, and medians are printed. `a core` is images for each
second of processor time, all threads together, so that it holds on a busy machine too; `ours/` is
our speed over that form's; `limit` is the share of the fastest decoding known, libjpeg-turbo's of no
more than the crop, to which TensorFlow gives access but OpenCV, Pillow, simplejpeg and PyTurboJPEG
do not. libjpeg's scaled decoding gives other pixels, and no crop of such an image is twice 224
pixels high: it is shown as an observation.

The cores that a host needs follow from `--batch` and `--step_ms`, as `launch.dry_run` estimates
them; both may be given several times. They are cores like those of this machine.
"""

import os
import pathlib
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # before TensorFlow is imported

import cv2
import numpy as np
import tensorflow as tf
from absl import app, flags

from experts.data import batches, dataset, image_files
from experts.data.transforms import Transform

_BATCH = flags.DEFINE_multi_integer('batch', [64], 'Images of one host in a step, all members.')
_STEP_MS = flags.DEFINE_multi_float('step_ms', [12.8], 'The time of that step.')
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Medians are of so many.', lower_bound=5)

_FILES = 256
_STEPS, _STEP_SIZE = 16, 64  # of one round
_HEIGHT, _WIDTH, _SIZE = 375, 500, 224
_DCT = 'INTEGER_ACCURATE'  # as OpenCV; TensorFlow's default gives other pixels
_TRANSFORM = Transform(_SIZE, crop='inception', flip=True)

# threads -> the images of one round, batch by batch
Form = Callable[[int], object]


def _photograph(rng: np.random.Generator) -> np.ndarray:
  """Noise whose amplitude falls as in photographs, alike in all colours but for a little."""
  frequency = np.hypot(np.fft.fftfreq(_HEIGHT)[:, None], np.fft.rfftfreq(_WIDTH))
  frequency[0, 0] = np.inf

  def field() -> np.ndarray:
    noise = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
    values = np.fft.irfft2(noise * frequency**-1.1, s=(_HEIGHT, _WIDTH))
    return values / values.std()

  light, red, blue = field(), field(), field()
  image = np.stack([light + 0.3 * red, light - 0.1 * red - 0.1 * blue, light + 0.3 * blue], -1)
  grain = rng.normal(size=(_HEIGHT, _WIDTH, 1))
  return np.clip(128 + 50 * image + 6 * grain, 0, 255).astype(np.uint8)


def _write(folder: pathlib.Path) -> list[str]:
  """Writes the JPEGs as train/class/file; returns their paths."""
  (folder / 'train' / 'all').mkdir(parents=True)
  paths = [str(folder / 'train' / 'all' / f'{number}.jpg') for number in range(_FILES)]
  for number, path in enumerate(paths):
    image = _photograph(np.random.default_rng(number))
    cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, 90])
  return paths


def _ours(data: dataset.Dataset, transform: Transform) -> Form:
  member = batches.Member(data, np.arange(len(data)), 0)
  return lambda threads: batches.train_batches(
    [member], transform, _STEP_SIZE, range(_STEPS), threads=threads
  )


def _pixels_only() -> dataset.Dataset:
  """Images that cost nothing to read, of the final size."""
  image = np.zeros((_SIZE, _SIZE, 3), np.uint8)
  return dataset.Dataset(
    'nothing', ('all',), _FILES, lambda index: image, lambda: np.zeros(_FILES), str
  )


def _window(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  begin, size, _ = tf.image.sample_distorted_bounding_box(
    shape,
    tf.zeros([1, 0, 4]),
    min_object_covered=0.0,
    aspect_ratio_range=(3 / 4, 4 / 3),
    area_range=(0.08, 1.0),
    max_attempts=10,
    use_image_if_no_bounding_boxes=True,
  )
  return begin, size


def _decode_crop(data: tf.Tensor) -> tf.Tensor:
  begin, size = _window(tf.io.extract_jpeg_shape(data))
  window = tf.concat([begin[:2], size[:2]], 0)
  return tf.io.decode_and_crop_jpeg(data, window, channels=3, dct_method=_DCT)


def _decode_then_crop(data: tf.Tensor) -> tf.Tensor:
  image = tf.io.decode_jpeg(data, channels=3, dct_method=_DCT)
  return tf.slice(image, *_window(tf.shape(image)))


def _tf_data(paths: list[str], cropped: Callable[[tf.Tensor], tf.Tensor]) -> Form:
  def example(path: tf.Tensor) -> tf.Tensor:
    image = tf.image.resize(cropped(tf.io.read_file(path)), (_SIZE, _SIZE))
    return tf.image.random_flip_left_right(tf.cast(image, tf.uint8))

  def stream(threads: int) -> tf.data.Dataset:
    data = tf.data.Dataset.from_tensor_slices(paths).shuffle(_FILES, seed=0).repeat()
    data = data.map(example, num_parallel_calls=threads).batch(_STEP_SIZE)
    return data.take(_STEPS).prefetch(2).with_options(_tf_options(threads))

  made = {threads: stream(threads) for threads in (1, 2)}  # tracing the graph is not timed
  return lambda threads: made[threads].as_numpy_iterator()


def _tf_options(threads: int) -> tf.data.Options:
  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  options.autotune.enabled = False
  return options


def _cv2_alone(paths: list[str], flag: int) -> Form:
  files = [np.fromfile(path, np.uint8) for path in paths]
  flag |= cv2.IMREAD_IGNORE_ORIENTATION
  numbers = np.arange(_STEPS * _STEP_SIZE).reshape(_STEPS, _STEP_SIZE) % _FILES
  # The image is dropped at once, as in a pipeline, not kept for the batch.
  return lambda threads: (
    [cv2.imdecode(files[number], flag) is None for number in step] for step in numbers
  )


def _tf_alone(paths: list[str]) -> Form:
  data = tf.data.Dataset.from_tensor_slices([pathlib.Path(path).read_bytes() for path in paths])
  data = data.repeat().map(lambda file: tf.shape(_decode_crop(file))).batch(_STEP_SIZE).take(_STEPS)
  data = data.with_options(_tf_options(1))
  return lambda threads: data.as_numpy_iterator()


def _speed(form: Form, threads: int) -> tuple[float, float]:
  """Images a second, and images a second of processor time."""
  wall, processor = time.perf_counter(), time.process_time()
  images = sum(
    len(batch['label'][0] if isinstance(batch, dict) else batch) for batch in form(threads)
  )
  return images / (time.perf_counter() - wall), images / (time.process_time() - processor)


def _medians(forms: dict[tuple[str, int], Form]) -> dict[tuple[str, int], np.ndarray]:
  """Runs all forms in turn, round after round; the first round warms up."""
  found = {key: [] for key in forms}
  for _ in range(_ROUNDS.value + 1):
    for (name, threads), form in forms.items():
      found[name, threads].append(_speed(form, threads))
  return {key: np.median(speeds[1:], axis=0) for key, speeds in found.items()}


def main(_) -> None:
  if len(_BATCH.value) != len(_STEP_MS.value):
    raise app.UsageError('every --batch needs its --step_ms')
  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(1)
  with tempfile.TemporaryDirectory() as folder:
    paths = _write(pathlib.Path(folder))
    size = np.mean([os.path.getsize(path) for path in paths])
    print(
      f'{_FILES} JPEGs of {_WIDTH}x{_HEIGHT}, {size / 1e3:.0f} kB; medians of {_ROUNDS.value}'
      f' on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}'
    )
    ours = _ours(image_files.open_images(folder, 'train'), _TRANSFORM)
    pipelines = {
      'ours': ours,
      'tf.data, decoding the crop': _tf_data(paths, _decode_crop),
      'tf.data, decoding all': _tf_data(paths, _decode_then_crop),
      'ours, no decoding, no crop': _ours(_pixels_only(), Transform(_SIZE, flip=True)),
    }
    decoders = {
      'decoding the crop (limit)': _tf_alone(paths),
      'decoding all, cv2': _cv2_alone(paths, cv2.IMREAD_COLOR_RGB),
      'at half size, cv2': _cv2_alone(paths, cv2.IMREAD_REDUCED_COLOR_2),
    }
    medians = _medians(
      {(name, threads): form for threads in (1, 2) for name, form in pipelines.items()}
      | {(name, 1): form for name, form in decoders.items()}
    )
  limit = medians['decoding the crop (limit)', 1][1]
  print(f'{"form":28s} {"threads":>7s} {"images/s":>9s} {"a core":>7s} {"ours/":>6s} {"limit":>6s}')
  for (name, threads), (wall, core) in medians.items():
    ratio = medians['ours', threads][1] / core
    share = f'{core / limit:.0%}' if core <= limit else ''
    print(f'{name:28s} {threads:7d} {wall:9.0f} {core:7.0f} {ratio:6.2f} {share:>6s}')
  for batch, step_ms in zip(_BATCH.value, _STEP_MS.value):
    wanted = 1e3 * batch / step_ms
    cores = wanted / medians['ours', 1][1]
    print(f'{batch} images in {step_ms:g} ms: {wanted:.0f} images/s, {cores:.1f} cores')


if __name__ == '__main__':
  app.run(main)
