"""Classifies images with a network that a transfer left.

python main.py --config=configs/predict.py --workdir=runs/predicted --config.model=runs/mine/transfer/mine --config.images=PATH

A CPU does some tens of images of 224 pixels a second with a ResNet-50, a GPU thousands. Expect predictions.csv: file, class,
probability, and the two next classes. PATH is an image, a folder with all that is below it, or a .tar or .zip. An image that cannot be
read has a row without a class. Interrupted, it leaves its rows in predictions-unfinished.csv; the same command goes on.
"""

import ml_collections

from configs import common


def get_config():
  defaults = common.get_config()
  return ml_collections.ConfigDict(
    {
      'phases': ('predict',),
      'seed': defaults.seed,
      # What a transfer left: its folder, or the .npz in it, beside which a .json lies.
      'model': '',
      'images': '',
      'run': defaults.run,
    }
  )
