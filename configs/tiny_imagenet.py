"""Experts on photographs of 64 pixels with WordNet's hierarchy, selection, and its competitor, on a CPU.

python main.py --config=configs/tiny_imagenet.py --workdir=runs/tiny --config.data_dir=data

In `data`: tiny_imagenet, prepared by python -m experts.data.imagenet21k --name=tiny_imagenet --validation=0.2, and the archives
of the tasks. Two CPU cores, about an hour and a half, most of it for the baseline and the adapter experts. Expect experts
that are far better than the baseline on the test images of their slices: docs/tiny_imagenet.md.
"""

from configs import common, upstream


def get_config():
  config = common.get_config()
  config.phases = ('upstream', 'experts', 'select', 'transfer', 'dat', 'report')
  upstream.use(config, 'tiny_imagenet')
  config.tasks = {
    'flowers5': common.task('images:flowers5/flowers5-sub.tar.gz'),
    'rsscn7': common.task('images:rsscn7/rsscn7-sub.tar.gz'),
    'dtd10': common.task('images:dtd10/dtd10.tar.gz', train_images=0),
  }
  config.transfer.update(
    batch_size=32, durations=('80 steps',), learning_rates=(0.4, 0.1), warmups=('8 %',)
  )
  config.trials = '1x2'
  return config
