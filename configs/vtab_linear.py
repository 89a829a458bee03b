"""VTAB-1k: models chosen by logistic regressions on their embeddings, then fine-tuned (WHICH §4).

python main.py --config=configs/vtab_linear.py --workdir=runs/vtab_linear --config.pool=runs/imagenet21k/pool.json

As configs/vtab_knn.py, and five fits of 2,500 steps with two learning rates for each model and task: seconds a model and task
on a CPU. kNN is scored along with it, on the same embeddings. Some tasks only: configs/vtab_linear.py:caltech101,dtd. Expect a
choice as good as kNN's: WHICH finds neither ahead on average.
"""

from configs import vtab_knn


def get_config(tasks: str = ''):
  config = vtab_knn.get_config(tasks)
  config.strategy = 'linear,knn'
  return config
