"""The baseline on ImageNet-21k, as in the paper (EXP §4, §6.1).

python main.py --config=configs/upstream.py --workdir=runs/imagenet21k

A TPU v3-512. What a step takes there is in launch/README.md; --config.upstream.batch_size and --config.upstream.duration suit smaller
slices. Expect the baseline, after experts are trained from it, to choose among them for 71.4 % on VTAB-1k (EXP, Table 2).
"""

from configs import common


def imagenet21k(config):
  """The data: 13 M images of 21,843 synsets, and the 1,741 synsets that are their ancestors (EXP §4)."""
  config.upstream.update(data='tfds:imagenet21k', test='validation')
  config.upstream.size.update(images=13_000_000, classes=21_843, nodes=21_843 + 1_741)


def get_config():
  config = common.get_config()
  config.phases = ('upstream',)
  imagenet21k(config)
  return config
