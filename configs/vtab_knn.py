"""VTAB-1k: experts chosen by nearest neighbours, then fine-tuned (EXP §6.2, App. E.2).

python main.py --config=configs/vtab_knn.py --workdir=runs/vtab --config.pool=runs/imagenet21k/pool.json

All 19 tasks; some of them: --config=configs/vtab_knn.py:caltech101,dtd. Each is prepared once with TFDS; a task that is not
prepared is named at the start, with the command that prepares it. Today's TFDS has another version of Pets than the paper
had: --config.tasks.oxford_iiit_pet.data=vtab:oxford_iiit_pet@4.0.0 allows it, and tasks.csv records it.

Selection among 240 ResNet-50 experts took the paper under 2 hours on one V100; a fine-tune takes 3 minutes (2,500 steps)
or 12 (10,000) on a TPU v3-16. Expect, with ImageNet-21k experts, 71.4 % on average over the 19 tasks (EXP, Table 2).
"""

from configs import common
from experts.data import vtab


def get_config(tasks: str = ''):
  config = common.get_config()
  config.phases = ('select', 'transfer', 'report')
  names = tuple(tasks.split(',')) if tasks else tuple(vtab.TASKS)
  config.tasks = {
    name.partition('@')[0]: common.task(f'vtab:{name}', train='train800val200') for name in names
  }
  return config
