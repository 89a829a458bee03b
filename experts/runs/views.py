"""How images are resized and cropped, in training and to test."""

from experts.data import transforms
from experts.models.network import View
from experts.runs.description import Config


def of_config(image: Config) -> View:
  """How `config.image` shows images to what is trained upstream."""
  return View(image.size, image.resize, image.interpolation, image.antialias)


def train_transform(image: Config, section: Config) -> transforms.Transform:
  """How a phase varies its images; a random crop is cut out of the resized image, an Inception one out of the whole."""
  resize = image.resize if section.crop == 'random' else 0
  return transforms.Transform(
    image.size, resize, section.crop, section.flip, image.interpolation, image.antialias
  )


def eval_transform(view: View) -> transforms.Transform:
  """Resize and central crop: upstream, and to embed for selection (EXP §6.1, App. C.1)."""
  return transforms.Transform(
    view.size,
    view.resize if view.cropped else 0,
    'central' if view.cropped else 'none',
    interpolation=view.interpolation,
    antialias=view.antialias,
    keep_aspect=view.keep_aspect,
  )


def task_transform(image: Config) -> transforms.Transform:
  """Resize only: how the images of a task are evaluated, as it trains on the whole of them (EXP App. E.2, F.1)."""
  return transforms.Transform(
    image.size, interpolation=image.interpolation, antialias=image.antialias
  )
