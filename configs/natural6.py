"""The natural six: experts against domain-adaptive transfer (EXP §6.6, App. F).

python main.py --config=configs/natural6.py --workdir=runs/natural6 --config.pool=runs/imagenet21k/pool.json

Aircraft, Birdsnap, Cars, CIFAR-10, Food-101, Pets; some of them: --config=configs/natural6.py:cifar10,pets. Three are
prepared with TFDS, three are folders; `python -m experts.data.doctor` says what is there and how to come by the rest. For
each task 36 random settings are tried on the training split and the best on validation is retrained 30 times on both; the
result is the mean. That is 446,400 steps of batch 512 a model and task on average for the sweep: a TPU slice's work.
--config.transfer.draws=8 --config.trials=1x3 is smaller.
"""

from configs import common
from experts.data import natural6


def get_config(tasks: str = ''):
  config = common.get_config()
  config.phases = ('select', 'transfer', 'report')
  config.tasks = {
    name: common.task(
      f'natural6:{name}',
      train='train_validation',
      train_images=0,
      validation_images=0,
      metric=natural6.find(name).metric,
      size=natural6.find(name).crop,
      resize=natural6.find(name).resize,
    )
    for name in (tasks.split(',') if tasks else natural6.TASKS)
  }
  config.trials = '1x30'
  # Of up to 75,750 ([EXP] App. C.1).
  config.select.images = 1000
  config.transfer.update(
    draws=36,
    # As they are, at batch 512.
    learning_rates=(2e-4, 2e-1),
    base_batch_size=512,
    durations=('2000 steps', '4000 steps', '8000 steps', '16000 steps', '32000 steps'),
    weight_decays=(1e-6, 1e-2),
    mixups=(0.0, 0.05, 0.1, 0.2, 0.4),
    crop='random',
    flip=True,
    warmups=('10 %',),
    decay_at=(0.3, 0.6, 0.9),
  )
  return config
