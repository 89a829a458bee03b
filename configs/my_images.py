"""Your own images: which model of a pool suits them, and that model fine-tuned on them.

python main.py --config=configs/my_images.py --workdir=runs/mine --config.pool=runs/quickstart/pool.json --config.tasks.mine.data=images:FOLDER

FOLDER (or a .tar, .tar.gz) holds class/file.jpg; a fifth is held out to test and a fifth of the rest to choose by. Where
it holds split/class/file.jpg, name the splits: --config.tasks.mine.train=train --config.tasks.mine.test=test.

A few minutes on two CPU cores for 1,000 small images and the quickstart's pool. Leaves the ranking in scores.csv, the
fine-tuned model in transfer/mine/, and the table in report/report.md.
"""

from configs import common


def get_config():
  config = common.get_config()
  config.phases = ('select', 'transfer', 'report')
  config.tasks = {
    'mine': common.task('images:my_images', test='', train_images=0, validation_images=0)
  }
  config.trials = '1x3'
  config.transfer.update(
    batch_size=64,
    durations=('100 steps', '400 steps'),
    learning_rates=(0.2, 0.05),
    warmups=('8 %',),
  )
  return config
