"""The defaults of every field; the other configs change what they need.

Not to be run by itself. What each field means is said here once; which values it takes, in experts/config.py.
"""

import ml_collections


def training(**changes):
  """How one phase trains, with the settings that the papers share."""
  fields = {
    'batch_size': 512,
    # '900 steps', '30 epochs' or '1e6 examples'.
    'duration': '2500 steps',
    # For a batch of 256; scaled with the batch.
    'learning_rate': 0.03,
    'momentum': 0.9,
    # On kernels only.
    'weight_decay': 0.0,
    # '500 steps' or '5 %' of the duration: linear from 0.
    'warmup': '5 %',
    # The learning rate falls to a tenth at each of these fractions of the duration.
    'decay_at': (1 / 3, 2 / 3, 5 / 6),
    # α of mixup's Beta(α, α); 0 is off.
    'mixup': 0.0,
    # 'inception', 'random' (of size, out of the image at resize) or 'none'.
    'crop': 'none',
    'flip': False,
  }
  return {**fields, **changes}


def get_config():
  return ml_collections.ConfigDict(
    {
      'seed': 0,
      'phases': ('upstream', 'experts', 'select', 'transfer', 'report'),
      # Where relative paths of 'images:' data and prepared TFDS data are; empty is the working folder, or TFDS's default.
      'data_dir': '',
      # A pool.json to choose from, or whose baseline new experts start from; empty is the workdir's own.
      'pool': '',
      # For the report: a folder of results from elsewhere, and a CSV of published figures to show beside ours.
      'results': '',
      'paper': '',
      # '10:15': these steps of each upstream and expert run are traced, for TensorBoard's profile tab.
      'profile_steps': '',
      'model': _model(),
      'image': _image(),
      'run': _run(),
      'upstream': _upstream(),
      'experts': _experts(),
      # Predicts from an image whose slice it is of (EXP App. A); not part of the default chain, as the proxy needs none.
      'domain_predictor': training(
        batch_size=1024, duration='2 epochs', weight_decay=1e-3, crop='inception', flip=True
      ),
      # Domain-adaptive transfer, the competitor that trains upstream anew for every task (EXP §6.6); asked for by name.
      'dat': training(
        batch_size=1024,
        duration='2 epochs',
        learning_rate=1e-4,
        weight_decay=1e-3,
        crop='inception',
        flip=True,
      ),
      'tasks': {},
      # Which models to try: 'knn', 'linear', 'hybrid', 'epn', … (README). Of several, 'knn,linear', the first chooses.
      'strategy': 'knn',
      'select': _select(),
      # So many times the sweep is run, on 800 of the images, and its best on the other 200 chosen; so many times each choice
      # is retrained on all of them and tested.
      'trials': '10x3',
      # VTAB-1k's sweep (EXP §E.2).
      'transfer': _transfer(),
      # Whether intervals resample the selections, then the retrains within each, which share their settings; else all
      # retrains alike, as the paper does.
      'report': {'cluster': False},
    }
  )


def _model():
  return {
    'depth': 50,
    'width': 1.0,
    # 'imagenet' is BiT's; 'small' is for images of about 32 pixels.
    'root': 'imagenet',
    # 'auto': bfloat16 on TPU and GPU, float32 on CPU.
    'dtype': 'auto',
  }


def _image():
  return {
    'size': 224,
    # Before the central crop of upstream evaluation and of selection, and the random crop of training. A task's images
    # are evaluated whole, at `size`.
    'resize': 224,
    # 'nearest', 'bilinear', 'bicubic' or 'lanczos'; bilinear without antialias is what BiT and its experts saw.
    'interpolation': 'bilinear',
    'antialias': False,
    # An image that cannot be decoded: 'raise', or 'skip' and count.
    'undecodable': 'raise',
  }


def _run():
  return {
    # '10 seconds' or '50 steps', of every training run: a log line, with the means since the last.
    'log_every': '10 seconds',
    # '10 minutes' or '500 steps': what a kill may cost. A fine-tune that is over before keeps none.
    'checkpoint_every': '10 minutes',
    'keep_checkpoints': 2,
    'evaluation_batch': 256,
    'tensorboard': True,
    # Whether a device may train several members, one after the other, where there are more than devices.
    'loop': True,
    # Where compiled programs are kept between runs; empty for nowhere.
    'compilation_cache': '~/.cache/experts',
    # Where embeddings are kept, by content, so that another strategy embeds nothing anew; empty for nowhere.
    'embedding_cache': '~/.cache/experts/embeddings',
    # Seconds that the processes of a job wait for each other at the start.
    'coordinator_timeout': 300,
  }


def _upstream():
  return training(
    # 'tfds:NAME', 'images:PATH' (a folder, tar or zip of split/class/file) or 'glyphs:upstream'.
    data='glyphs:upstream',
    train='train',
    test='test',
    # For the dry run, what the data will hold; with 0 it looks at the data.
    size={'images': 0, 'test_images': 0, 'classes': 0, 'nodes': 0},
    # An .npz of this program, or a BiT-*.npz, to start from.
    init_from='',
    # Steps; the baseline at each of these joins the pool (EXP App. C.5). 0 for never.
    keep_every=0,
    batch_size=4096,
    duration='90 epochs',
    weight_decay=1e-3,
    warmup='5000 steps',
    crop='inception',
    flip=True,
  )


def _experts():
  return {
    'kinds': ('full', 'adapter'),
    # The nodes of the hierarchy with most images (0: all with at least min_images), or exactly those named.
    'count': 50,
    # Nodes with the very same images make one expert, by the most specific name; the paper keeps all.
    'merge_equal': False,
    'nodes': (),
    # For each slice another expert on as many images drawn at random (EXP App. G).
    'controls': False,
    # A small slice makes an expert that is worse than the baseline; a large one, the baseline again.
    'min_images': 1000,
    'max_share': 1.0,
    'full': training(
      batch_size=1024,
      duration='2 epochs',
      learning_rate=1e-4,
      weight_decay=1e-3,
      crop='inception',
      flip=True,
    ),
    'adapter': training(
      batch_size=1024,
      duration='4 epochs',
      learning_rate=1e-1,
      weight_decay=1e-3,
      crop='inception',
      flip=True,
    ),
  }


def _select():
  return {
    # So many of the best-ranked models are fine-tuned (WHICH's B), and the best on validation is kept.
    'budget': 1,
    # Neighbours that vote, and 'euclidean' or 'cosine'.
    'k': 1,
    'metric': 'euclidean',
    # So many of a task's training images are looked at, drawn evenly at random; 0: all. The papers look at 1,000.
    'images': 0,
    # For pools of thousands: so many images to begin with, and twice as many for the better half; 0: all at once.
    'first_images': 0,
    # Which models of the pool are candidates; 0 and empty for any.
    'max_parameters': 0,
    'max_dimension': 0,
    'upstream': '',
    'kinds': (),
    # 10⁹ operations of an image's embedding.
    'max_gflops': 0.0,
    # Such as ('apache-2.0', 'mit').
    'licences': (),
  }


def _transfer():
  return {
    # 'all' models of the pool (so that the best by hindsight is known), or the 'chosen' and the baseline.
    'models': 'chosen',
    # 0: the sweep is every combination of the five below. Else so many random ones: learning rate and weight decay
    # log-uniform between the smallest and the largest, the others each of those with equal chance.
    'draws': 0,
    # For a batch of base_batch_size; scaled with the batch.
    'learning_rates': (0.1, 0.01),
    'durations': ('2500 steps', '10000 steps'),
    'weight_decays': (0.0,),
    'mixups': (0.0,),
    # What is trained: 'all', the 'head', or 'last:2', the last two blocks and the head; several are one more axis of the
    # sweep. Both papers train all.
    'trained': ('all',),
    # 'sgd' with momentum, as in both papers, or 'adamw'.
    'optimizer': 'sgd',
    # The learning rate of each block is that of the one behind it times this; 1 is the same for all.
    'layer_decay': 1.0,
    'base_batch_size': 256,
    # One for each duration, or one for all: '200 steps' or '10 %'.
    'warmups': ('200 steps', '500 steps'),
    **{
      name: value
      for name, value in training(batch_size=512, decay_at=(1 / 3, 2 / 3, 9 / 10)).items()
      if name not in ('learning_rate', 'duration', 'weight_decay', 'mixup', 'warmup')
    },
  }


def task(data, train='train', test='test', **changes):
  """A task: 1,000 images to train on, 200 of them to choose by."""
  fields = {
    'data': data,
    'train': train,
    # Empty: of a folder's or archive's images the split 'validation', or 'test', if there is one; else so many as below are
    # held out of the training split, as they are with that split's own name. Both parts train what is tested.
    'validation': '',
    'test': test,
    # 0 is all there are.
    'train_images': 1000,
    # Of those, to choose by; 0 is a fifth.
    'validation_images': 200,
    # 0 is all of the test split, or a fifth of the training split where there is none.
    'test_images': 0,
    # 'accuracy' or 'mean_per_class', the mean over the classes of their accuracies.
    'metric': 'accuracy',
    # Pixels to fine-tune at, and to resize to before training's random crop; 0: those that the model was trained with.
    'size': 0,
    'resize': 0,
  }
  return {**fields, **changes}
