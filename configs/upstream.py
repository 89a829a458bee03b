"""The baseline on ImageNet-21k, as in the paper (EXP §4, §6.1), or on another set.

python main.py --config=configs/upstream.py --workdir=runs/imagenet21k --config.data_dir=data

A TPU v3-512 and about an hour of steps: launch/README.md. The set is prepared once, with
python -m experts.data.imagenet21k --archive=winter21_whole --out=data

Others, by name behind a colon: configs/upstream.py:jft (the paper's numbers; your own set of that kind is
--config.upstream.data), and, for a CPU, configs/upstream.py:tiny_imagenet and configs/upstream.py:grocery64. The same names
suit configs/experts.py and configs/domain_predictor.py. Expect the baseline, after experts are trained from it, to choose
among them for 71.4 % on VTAB-1k (ImageNet-21k: EXP, Table 2).
"""

from configs import common


def imagenet21k(config):
  """13 M images of 21,843 synsets, and the 1,741 synsets that are their ancestors (EXP §4)."""
  config.upstream.update(data='tfds:imagenet21k', test='validation')
  config.upstream.size.update(images=13_000_000, classes=21_843, nodes=21_843 + 1_741)


def jft(config):
  """300 M images of 18,291 classes; an expert for each of the 240 with more than 850,000 images (EXP §4)."""
  config.upstream.update(data='tfds:jft', test='validation', duration='30 epochs')
  config.upstream.size.update(images=300_000_000, classes=18_291, nodes=18_291)
  config.experts.update(count=240, min_images=850_001)


def tiny_imagenet(config):
  """25,000 images of 64 pixels in 200 synsets: python -m experts.data.imagenet21k --archive=… --name=tiny_imagenet."""
  _small(config)
  config.upstream.update(data='tfds:tiny_imagenet', test='validation', duration='16 epochs')
  config.experts.update(count=4, min_images=1000, max_share=0.5, merge_equal=True)


def grocery64(config):
  """2,640 photographs of groceries of 64 pixels, whose folders are the hierarchy."""
  _small(config)
  config.upstream.update(data='images:grocery64/grocery64.tar.gz', duration='60 epochs')
  config.experts.update(count=4, min_images=240, merge_equal=True)


def _small(config):
  """A network, batches and rates for two CPU cores and images of 64 pixels."""
  config.model.update(depth=14, width=0.5)
  config.image.update(size=64, resize=72)
  config.run.update(checkpoint_every='2 minutes')
  # A network of this size underfits: mild crops, and the rate falls late (measured: 13.7 % after 8 epochs of
  # tiny-imagenet, against 11.2 % after 20 with Inception's crops and the paper's schedule).
  small = {
    'batch_size': 128,
    'weight_decay': 1e-4,
    'warmup': '5 %',
    'crop': 'random',
    'decay_at': (0.6, 0.85, 0.95),
  }
  config.upstream.update(small, learning_rate=0.2)
  for section in (config.experts.full, config.domain_predictor, config.dat):
    section.update(small, duration='2 epochs', learning_rate=0.05)
  config.experts.adapter.update(small, duration='4 epochs', learning_rate=0.2)


SETS = {one.__name__: one for one in (imagenet21k, jft, tiny_imagenet, grocery64)}


def get_config(name: str = 'imagenet21k'):
  config = common.get_config()
  config.phases = ('upstream',)
  use(config, name)
  return config


def use(config, name: str):
  """Sets the upstream data of that name, and what goes with it."""
  if name not in SETS:
    raise ValueError(f'unknown upstream set {name!r}; known: {", ".join(SETS)}')
  SETS[name](config)
