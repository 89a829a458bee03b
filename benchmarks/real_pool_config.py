"""Eight small real tasks for the pool of benchmarks/real_pool.py, which names the places of data and models."""

from configs import common


def get_config():
  config = common.get_config()
  config.phases = ('select',)
  config.strategy = 'knn,leep'
  # Of a tar of split/class/file; those of fewer than 1,000 training images give all.
  config.tasks = {
    'caltech101': common.task('images:caltech101/caltech101-sub.tar.gz'),
    'flowers5': common.task('images:flowers5/flowers5-sub.tar.gz'),
    'dtd10': common.task('images:dtd10/dtd10.tar.gz', train_images=0, validation_images=0),
    'rsscn7': common.task('images:rsscn7/rsscn7-sub.tar.gz'),
    'sign-digits': common.task('images:sign-digits/sign-digits.tar.gz'),
    'gtsrb': common.task('images:gtsrb/gtsrb-sub.tar.gz', train_images=0, validation_images=0),
    'birds': common.task('images:birds.tar', train_images=0, validation_images=0),
    'insects': common.task('images:insects.tar', train_images=0, validation_images=0),
  }
  return config
