"""How images are resized and cropped, in training and to test."""

from experts.data import transforms
from experts.runs.description import Config


def train_transform(image: Config, section: Config) -> transforms.Transform:
  """How a phase varies its images; a random crop is cut out of the resized image, an Inception one out of the whole."""
  resize = image.resize if section.crop == 'random' else 0
  return transforms.Transform(image.size, resize, section.crop, section.flip)


def eval_transform(size: int, resize: int) -> transforms.Transform:
  """Resize and central crop: upstream, and to embed for selection (EXP §6.1, App. C.1)."""
  return transforms.Transform(size, resize, 'central' if resize > size else 'none')


def task_transform(size: int) -> transforms.Transform:
  """Resize only: how the images of a task are evaluated, as it trains on the whole of them (EXP App. E.2, F.1)."""
  return transforms.Transform(size)
