"""The forms in which fine-tuned networks leave, each with the module that knows it. A new form is a module and a line here."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
  # What asks for the names of the forms alone loads no JAX.
  from experts.models.tuned import Tuned

FORMS = {
  'timm': 'experts.models.exporting.timm',
  'onnx': 'experts.models.exporting.onnx',
  'saved_model': 'experts.models.exporting.tensorflow',
  'litert': 'experts.models.exporting.litert',
  'jax': 'experts.models.exporting.jax',
}


# Images of one run.
_BATCH = 16


class Form(Protocol):
  """The module of a form.

  Attributes:
    TOLERANCE: how far its probabilities may be from our own network's.
    LIBRARY: what the Hugging Face hub calls what opens it.
  """

  TOLERANCE: float
  LIBRARY: str

  def write(self, tuned: Tuned, folder: str) -> None:
    """Writes the files of a network into an empty folder.

    Raises:
      ValueError: a network that has no such form, or a package that is missing; one line.
    """

  def run(self, folder: str, images: np.ndarray) -> tuple[np.ndarray, str]:
    """What a folder's network says of images, uint8 [N, S, S, 3], in the form's own runtime.

    Returns:
      Probabilities float32 [N, C], and what computed them, in words.
    """

  def usage(self, tuned: Tuned) -> str:
    """How to use a folder, for its card: Python, `pixels` is uint8 [N, S, S, 3], and what else is to be known."""


def form(name: str) -> Any:
  """The module of a form of `FORMS`."""
  return importlib.import_module(FORMS[name])


def need(module: str, extra: str) -> Any:
  """A package that not everybody has.

  Raises:
    ValueError: it is missing; says how to install it.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ValueError(
      f"this format needs {module.partition('.')[0]} ({error}): pip install 'experts[{extra}]'"
    ) from None


def by_batches(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
  """What `run` says of images [N, …], a few at a time, as one array [N, C]."""
  return np.concatenate(
    [np.asarray(run(images[at : at + _BATCH])) for at in range(0, len(images), _BATCH)]
  )


def write_classes(tuned: Tuned, folder: str) -> None:
  """Writes classes.json, a list in the order of the probabilities, for forms that have no place for it."""
  with open(os.path.join(folder, 'classes.json'), 'w', encoding='utf-8') as file:
    json.dump(tuned.classes, file, ensure_ascii=False)
