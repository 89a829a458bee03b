"""Your own images: which model of a pool suits them, and that model fine-tuned on them.

python -m experts.data.check images:FOLDER
python main.py --config=configs/my_images.py --workdir=runs/mine --config.pool=runs/quickstart/pool.json --config.tasks.mine.data=images:FOLDER

FOLDER (or a .zip, .tar, .tar.gz) holds class/file.jpg, or split/class/file.jpg, or files and a labels.csv. Splits train,
validation and test are used as such; where one of the last two is missing, a fifth is held out to test and a fifth of the
rest to choose by. --config.tasks.mine.test=train holds out though there is a test split. All images are looked at first,
each once; what cannot be decoded is named, and with --config.image.undecodable=skip passed over. The first command only
looks: it says what a run would read, and what would end it.

A few minutes on two CPU cores for 1,000 small images and the quickstart's pool. Leaves what was read in tasks.csv, the
ranking in scores.csv, the fine-tuned model in transfer/mine/, and the table in report/report.md.
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
