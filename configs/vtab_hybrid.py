"""VTAB-1k: the best model by ImageNet accuracy or size, and the best by kNN, both fine-tuned (WHICH §5).

python main.py --config=configs/vtab_hybrid.py --workdir=runs/vtab_hybrid --config.pool=runs/imagenet21k/pool.json

As configs/vtab_knn.py with a budget of two fine-tunes a task, of which the better on validation is kept; more by
--config.select.budget=3. Some tasks only: configs/vtab_hybrid.py:caltech101,dtd. Expect less regret than by either strategy
alone with the same budget.
"""

from configs import vtab_knn


def get_config(tasks: str = ''):
  config = vtab_knn.get_config(tasks)
  config.strategy = 'hybrid,knn,task_agnostic'
  config.select.budget = 2
  return config
