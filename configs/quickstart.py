"""The whole method in a few minutes on two CPU cores, with nothing downloaded.

python main.py --config=configs/quickstart.py --workdir=runs/quickstart

Two CPU cores, 5 to 10 minutes and under 4 GB. Expect the Greek expert to be chosen for the alphabet and to beat the baseline
after fine-tuning by about 4 points; the whole table is in the README.
"""

from configs import common


def get_config():
  config = common.get_config()
  config.model.update(depth=14, width=0.25, root='small')
  config.image.update(size=32, resize=32)
  config.run.update(log_every='20 steps', checkpoint_every='1 minute')
  # Glyphs: the data varies place, angle, colour and background by itself, and a mirrored letter is another one.
  small = {
    'batch_size': 128,
    'weight_decay': 1e-4,
    'crop': 'none',
    'flip': False,
    'warmup': '50 steps',
  }
  config.upstream.update(small, duration='900 steps', learning_rate=0.2)
  config.experts.update(merge_equal=True, count=4, min_images=1500, max_share=0.2)
  small.update(batch_size=64, duration='200 steps', learning_rate=0.1, warmup='10 %')
  config.experts.full.update(small)
  config.experts.adapter.update(small)
  config.tasks = {
    name: common.task(f'glyphs:{name}') for name in ('digits', 'alphabet', 'orientation')
  }
  config.transfer.update(
    models='all',
    batch_size=32,
    durations=('60 steps',),
    learning_rates=(0.4, 0.1),
    warmups=('8 %',),
  )
  config.trials = '1x2'
  return config
