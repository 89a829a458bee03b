"""Real photographs: 2,640 of groceries upstream, experts on their largest nodes, three unlike tasks.

python main.py --config=configs/grocery.py --workdir=runs/grocery --config.data_dir=../shared/data

Two CPU cores, about 40 minutes and 9 GB. Expect experts no better than the baseline: the table is in docs/grocery.md.
"""

from configs import common


def get_config():
  config = common.get_config()
  config.model.update(depth=14, width=0.5)
  config.image.update(size=64, resize=64)
  config.run.update(log_every='50 steps', checkpoint_every='2 minutes')
  # A photograph of fruit is one still when mirrored and cropped.
  small = {'batch_size': 128, 'weight_decay': 1e-4}
  config.upstream.update(
    small,
    # split/Top/[Coarse/]Fine/file.jpg: 81 classes, and the folders above them are the hierarchy.
    data='images:grocery64/grocery64.tar.gz',
    duration='60 epochs',
    learning_rate=0.2,
    warmup='100 steps',
  )
  config.experts.update(merge_equal=True, count=4, min_images=240)
  config.experts.full.update(small, duration='6 epochs', learning_rate=0.1)
  config.experts.adapter.update(small, duration='6 epochs', learning_rate=0.1)
  config.tasks = {
    'flowers5': common.task('images:flowers5/flowers5-sub.tar.gz'),
    'sign-digits': common.task('images:sign-digits/sign-digits.tar.gz'),
    'dtd10': common.task('images:dtd10/dtd10.tar.gz', train_images=0),
  }
  config.transfer.update(
    models='all',
    batch_size=32,
    durations=('80 steps',),
    learning_rates=(0.4, 0.1),
    warmups=('8 %',),
  )
  config.trials = '1x2'
  return config
