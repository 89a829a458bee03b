"""The expert prediction network over the slices of ImageNet-21k's 50 experts (EXP App. A).

python main.py --config=configs/domain_predictor.py --workdir=runs/imagenet21k --config.data_dir=data

With the data, and in the workdir, of configs/upstream.py. A TPU v3-32. Selection by it trails the kNN proxy in the paper (EXP, Table 1).
"""

from configs import common, upstream


def get_config(name: str = 'imagenet21k'):
  config = common.get_config()
  config.phases = ('domain_predictor',)
  upstream.use(config, name)
  return config
