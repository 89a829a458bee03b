"""Published models in a pool, by the adapter of benchmarks/litert.py."""

import itertools
import pathlib

import numpy as np
import pytest

from experts.data import batches, sources
from experts.models.network import View
from experts.runs import views
from experts.selection import cache, embed, knn, pool

pytest.importorskip('ai_edge_litert', reason='needs ai-edge-litert, which runs TFLite models')

from benchmarks import litert, real_pool

_SHARED = pathlib.Path(__file__).resolve().parents[2].parent / 'shared'
_MODELS = ('mobilenet_v1_0.25_128_quant', 'mobilenet_v1_0.25_224_1_default_1')

pytestmark = pytest.mark.skipif(
  not (_SHARED / 'pool').exists(), reason=f'no models and images at {_SHARED}'
)


@pytest.fixture
def folder(tmp_path):
  """Two of the models: one of 8 bits, one of float32."""
  for name in _MODELS:
    (tmp_path / f'{name}.tflite').symlink_to(_SHARED / 'pool' / f'{name}.tflite')
  return tmp_path


def _photographs(size: int, number: int = 20) -> tuple[np.ndarray, np.ndarray]:
  flowers = sources.open_dataset(f'images:{_SHARED}/data/flowers5/flowers5-sub.tar.gz', 'train')
  indices = np.linspace(0, len(flowers) - 1, number).astype(int)
  held = batches.in_memory(flowers, indices, views.eval_transform(View(size)))
  return np.stack([held.image(i) for i in range(number)]), flowers.labels[indices]


def test_the_pool_says_of_a_file_what_its_architecture_makes_it(folder):
  """MobileNet v1 (Howard et al., 2017, Table 1) of a quarter of the width, with the batch normalisation folded in."""
  found = real_pool.make_pool(folder, folder / 'pool.json')
  widths = [8, 16, 32, 32, 64, 64, *[128] * 6, 256, 256]
  separable = sum(9 * a + a + a * b + b for a, b in itertools.pairwise(widths))
  assert [(m.name, m.size, m.dimension, m.parameters) for m in found] == [
    ('v1-0.25-128', 128, 256, 3 * 3 * 3 * 8 + 8 + separable),
    ('v1-0.25-224', 224, 256, 3 * 3 * 3 * 8 + 8 + separable),
  ]
  assert pool.read(folder / 'pool.json') == found


@pytest.mark.parametrize(('name', 'size'), [(_MODELS[0], 128), (_MODELS[1], 224)])
def test_the_classifier_makes_the_probabilities_of_the_embedding(name, size):
  """The model's own last layer, applied to our embeddings, and its own output say whether they are in the right units."""
  path = _SHARED / 'pool' / f'{name}.tflite'
  pixels, _ = _photographs(size, 4)
  model = litert.Model(path)
  embeddings, probabilities = model(pixels)
  assert embeddings.shape == (4, 256)
  assert probabilities.shape == (4, 1001)
  np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
  kernel, bias = _last_layer(path)
  logits = embeddings @ kernel + bias
  ours = np.log(probabilities)
  # Of 8 bits, a step is 0.13; what both are given up to a constant is compared with the mean taken off.
  step = 0.131 if name.endswith('quant') else 1e-3
  difference = (ours - ours.mean(1, keepdims=True)) - (logits - logits.mean(1, keepdims=True))
  assert np.abs(difference).max() < 1.5 * step


def _last_layer(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  from ai_edge_litert import schema_py_generated as schema

  model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
  graph = model.subgraphs[0]
  values = []
  for index, kind in zip(graph.operators[-3].inputs[1:], ('u1', 'i4')):
    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    scale = tensor.quantization and tensor.quantization.scale
    if scale is None or not len(scale):
      values.append(np.frombuffer(data, 'f4'))
    else:
      values.append(
        (np.frombuffer(data, kind).astype('f4') - tensor.quantization.zeroPoint) * scale
      )
  return values[0].reshape(1001, -1).T, values[1]


def test_models_of_several_sizes_rank_a_task_and_the_cache_needs_them_no_more(folder, monkeypatch):
  found = real_pool.make_pool(folder, folder / 'pool.json')
  labels, decoded = _photographs(128, 100)[1], []

  def decode(view):
    decoded.append(view.size)
    return _photographs(view.size, 100)[0]

  def run():
    task, kept = embed.Images('flowers', 100, decode, 'five flowers'), cache.Cache(folder / 'kept')
    return list(embed.embed_pool(found, '', [task], {}, 64, kept, with_logits=True))

  monkeypatch.setenv('LITERT_MODELS', str(folder))
  first = run()
  assert decoded == [128, 224]
  accuracies = [knn.leave_one_out(unit.embeddings, labels).accuracy[0] for unit in first]
  assert min(accuracies) > 0.4  # of five flowers, 20 each
  assert [unit.source(0).shape for unit in first] == [(100, 1001)] * 2
  monkeypatch.delenv('LITERT_MODELS')
  for one, other in zip(first, run(), strict=True):
    np.testing.assert_array_equal(one.embeddings, other.embeddings)
  assert decoded == [128, 224]


def test_a_folder_that_is_not_named_is_asked_for(folder, monkeypatch):
  (found, _) = real_pool.make_pool(folder, folder / 'pool.json')
  monkeypatch.delenv('LITERT_MODELS', raising=False)
  task = embed.Images('a', 2, lambda view: np.zeros((2, view.size, view.size, 3), np.uint8))
  with pytest.raises(ValueError, match=r'v1-0\.25-128.*LITERT_MODELS must name the folder'):
    list(embed.embed_pool([found], '', [task], {}, 2))


def test_birds_and_insects_are_those_of_wordnet(tmp_path):
  assert real_pool.make_nature(_SHARED, tmp_path) == {
    'birds': ('goose', 'black stork', 'king penguin', 'albatross'),
    'insects': (
      'ladybug', 'fly', 'bee', 'grasshopper', 'walking stick', 'cockroach', 'mantis', 'dragonfly', 'monarch',
      'sulphur butterfly',
    ),
  }  # fmt: skip
  counts = {
    (task, split): np.bincount(
      sources.open_dataset(f'images:{tmp_path}/{task}.tar', split).labels
    ).tolist()
    for task in ('birds', 'insects')
    for split in ('train', 'test')
  }
  assert counts == {
    ('birds', 'train'): [100] * 4,
    ('birds', 'test'): [25] * 4,
    ('insects', 'train'): [100] * 10,
    ('insects', 'test'): [25] * 10,
  }
