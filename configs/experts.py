"""50 full and 50 adapter experts on ImageNet-21k's largest synsets, as in the paper (EXP §4).

python main.py --config=configs/experts.py --workdir=runs/imagenet21k --config.data_dir=data

With the data, and in the workdir, of configs/upstream.py, whose baseline they start from. The paper trained each on a TPU v3-32 by itself; here all
are one job. The time is in launch/README.md.
"""

from configs import common, upstream


def get_config(name: str = 'imagenet21k'):
  config = common.get_config()
  config.phases = ('experts',)
  upstream.use(config, name)
  return config
