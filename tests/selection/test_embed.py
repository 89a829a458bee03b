"""Embeddings of whole pools: every kind gives what it should, and nothing is computed or read twice."""

import dataclasses
import importlib
import logging
import sys
import threading

import jax
import numpy as np
import pytest

from experts.models import resnet, weights
from experts.models.kinds import KINDS
from experts.models.network import View
from experts.selection import cache, embed, halving, pool
from experts.selection.ahead import one_ahead, read_ahead
from experts.selection.pool import joining

_SIZE, _COUNT, _CLASSES = 16, 10, 5
_NET = resnet.ResNet(14, 0.0625, 'small')
_SETTINGS = {
  'depth': 14,
  'width': 0.0625,
  'root': 'small',
  'dtype': 'auto',
  'size': 16,
  'resize': 16,
}
_MODULE = """
import numpy as np

calls = []

def statistics(images):
  calls.append(images.shape)
  return np.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], 1)

def with_head(images):
  first = images.mean((1, 2, 3)) / 255
  return statistics(images), np.stack([first, 1 - first], 1)

flat = lambda images: images.reshape(-1)
short = lambda images: statistics(images)[1:]
wide = lambda images: np.zeros((len(images), 3)) + np.arange(len(images))[:, None]
nan = lambda images: statistics(images) * np.where(np.arange(len(images)) == 2, np.nan, 1)[:, None]
constant = lambda images: np.ones((len(images), 2))
failing = lambda images: [][0]
unsure = lambda images: (statistics(images), np.full((len(images), 3), 0.5))
"""  # fmt: skip


def _perturb(tree, seed):
  """Random numbers for the zeros of fresh heads, biases and adapters."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: (np.asarray(leaf) + 0.2 * rng.normal(size=leaf.shape)).astype(np.float32), tree
  )


def _network(seed):
  return _perturb(resnet.init(_NET, jax.random.key(seed), _CLASSES), seed)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A pool with members of all kinds but TensorFlow's."""
  folder = tmp_path_factory.mktemp('pool')
  path = folder / 'pool.json'
  for i, name in enumerate(('baseline', 'full1', 'full2', 'full3')):
    weights.save(folder / f'{name}.npz', _network(i))
    joining.add(path, name, name.rstrip('123'), folder / f'{name}.npz', size=16 if i == 0 else None)
  for i in range(3):
    adapter = _perturb(jax.device_get(resnet.init_adapter(_NET, jax.random.key(i))), i)
    weights.save(folder / f'adapter{i}.npz', {'adapter': adapter})
    joining.add(path, f'adapter{i}', 'adapter', folder / f'adapter{i}.npz', folder / 'baseline.npz')
  weights.save_bit(folder / 'bit.npz', _network(9))
  joining.add(path, 'bit', 'bit', folder / 'bit.npz', size=12)
  (folder / 'own_functions.py').write_text(_MODULE)
  sys.path.insert(0, str(folder))
  joining.add(path, 'function', 'callable', 'own_functions:statistics', parameters=0, hash='v1')
  rng = np.random.default_rng(0)
  np.savez(folder / 'table.npz', **{name: rng.normal(size=(_COUNT, 3)) for name in ('a', 'b')})
  joining.add(path, 'table', 'embeddings', folder / 'table.npz', parameters=7)
  yield folder
  sys.path.remove(str(folder))


class _Decoder:
  """Random images of a task that count how often they are decoded."""

  def __init__(self, seed=0):
    self.calls, self._seed = [], seed

  def __call__(self, view):
    size, resize = view[:2]
    self.calls.append((size, resize))
    rng = np.random.default_rng(self._seed)
    return rng.integers(0, 256, (_COUNT, size, size, 3), np.uint8)


def _tasks(names='ab', fingerprint='images'):
  decoders = [_Decoder(i) for i in range(len(names))]
  return decoders, [
    embed.Images(name, _COUNT, decoder, fingerprint and f'{fingerprint} {name}')
    for name, decoder in zip(names, decoders)
  ]


def _run(folder, tasks, members=None, kept=None, with_logits=False, dtype='float32', batch_size=8):
  """{(model, task): (embeddings, logits)}."""
  members = pool.read(folder / 'pool.json') if members is None else members
  found = {}
  for part in embed.embed_pool(
    members, str(folder), tasks, _SETTINGS | {'dtype': dtype}, batch_size, kept, with_logits
  ):
    for member, own, logits in zip(part.members, part.embeddings, part.logits, strict=True):
      assert (member.name, part.images.name) not in found
      found[member.name, part.images.name] = own, logits
  return found


@jax.jit
def _forward(trees, pixels):
  return resnet.forward(_NET, trees, resnet.normalise(pixels))


def _expect(folder, member, task):
  """(embeddings, logits), computed for one model by itself."""
  if member.kind == 'embeddings':
    return np.load(folder / 'table.npz')[task.name].astype(np.float32), None
  pixels = task.pixels(View(member.size or _SIZE))
  if member.kind == 'callable':
    return np.stack([pixels.mean((1, 2, 3)), pixels.std((1, 2, 3))], 1), None
  trees = KINDS[member.kind].family.load(member, str(folder))
  logits, embeddings = _forward(trees, pixels)
  return embeddings, logits


def test_every_kind_gives_what_it_gives_by_itself(folder):
  members = pool.read(folder / 'pool.json')
  decoders, tasks = _tasks()
  found = _run(folder, tasks, members, with_logits=True)
  assert len(found) == 2 * len(members) == 2 * 10
  # Models of one image size share the decoded images.
  assert [sorted(decoder.calls) for decoder in decoders] == [[(12, 0), (16, 0)]] * 2
  for member in members:
    for task in tasks:
      embeddings, logits = _expect(folder, member, task)
      own, own_logits = found[member.name, task.name]
      assert own.dtype == np.float32
      np.testing.assert_allclose(own, embeddings, rtol=1e-4, atol=1e-4)
      if logits is None:
        assert own_logits is None
      else:
        np.testing.assert_allclose(own_logits, logits, rtol=1e-3, atol=1e-3)


def test_a_second_query_reads_no_image_and_no_weight(folder, tmp_path):
  members = [m for m in pool.read(folder / 'pool.json') if m.kind != 'embeddings']
  first = _run(folder, _tasks()[1], members, cache.Cache(tmp_path), with_logits=True)
  decoders, tasks = _tasks()
  # There are no weights here.
  second = _run(tmp_path, tasks, members, cache.Cache(tmp_path), with_logits=True)
  assert [decoder.calls for decoder in decoders] == [[], []]
  assert first.keys() == second.keys()
  for key in first:
    for one, other in zip(first[key], second[key]):
      np.testing.assert_array_equal(one, other)


def test_a_new_model_costs_one_pass(folder, tmp_path):
  *members, _ = pool.read(folder / 'pool.json')
  kept = cache.Cache(tmp_path)
  _run(folder, _tasks()[1], [m for m in members if m.name != 'adapter1'], kept)
  assert kept.written == 2 * (len(members) - 1)
  for other in folder.glob('*.npz'):
    if other.stem in ('adapter1', 'baseline'):
      (tmp_path / other.name).write_bytes(other.read_bytes())
  kept = cache.Cache(tmp_path)
  found = _run(tmp_path, _tasks()[1], members, kept)
  assert (kept.written, kept.found) == (2, 2 * (len(members) - 1))
  assert len(found) == 2 * len(members)


def test_logits_asked_for_later_read_the_head_and_no_image(folder, tmp_path):
  members = pool.read(folder / 'pool.json')
  _run(folder, _tasks()[1], members, cache.Cache(tmp_path))
  decoders, tasks = _tasks()
  later = _run(folder, tasks, members, cache.Cache(tmp_path), with_logits=True)
  assert [decoder.calls for decoder in decoders] == [[], []]
  fresh = _run(folder, tasks, members, with_logits=True)
  for key, (_, logits) in fresh.items():
    np.testing.assert_array_equal(logits, later[key][1])
  without = _run(folder, tasks, members, cache.Cache(tmp_path))
  assert all(logits is None for _, logits in without.values())


def test_other_images_weights_or_preprocessing_are_not_found(folder, tmp_path):
  member = pool.read(folder / 'pool.json')[1]
  kept = cache.Cache(tmp_path)

  def written(task='a', fingerprint='images', **change):
    before = kept.written
    members = [dataclasses.replace(member, **{k: v for k, v in change.items() if k != 'dtype'})]
    _run(folder, _tasks(task, fingerprint)[1], members, kept, dtype=change.get('dtype', 'float32'))
    return kept.written - before

  assert written() == 1
  assert written() == 0
  assert written(name='by another name') == 0
  assert written(fingerprint='others') == 1
  assert written(task='b') == 1
  assert written(size=12) == 1
  assert written(size=12, resize=14) == 1
  assert written(size=16, resize=16) == 0  # No crop, the same images.
  assert written(dtype='bfloat16') == 1
  other = pool.read(folder / 'pool.json')[2]
  assert written(weights=other.weights, hash=other.hash) == 1


def test_without_a_fingerprint_pixels_tell_images_apart(folder, tmp_path):
  member = pool.read(folder / 'pool.json')[8]
  kept = cache.Cache(tmp_path)
  for seed, written in ((0, 1), (0, 1), (1, 2)):
    task = embed.Images('a', _COUNT, _Decoder(seed))
    _run(folder, [task], [member], kept)
    assert kept.written == written


def test_a_damaged_entry_is_computed_anew_and_that_is_said(folder, tmp_path, caplog):
  members = [m for m in pool.read(folder / 'pool.json') if m.kind == 'adapter']
  first = _run(folder, _tasks()[1], members, cache.Cache(tmp_path))
  victim = sorted(tmp_path.rglob('*.npz'))[0]
  content = bytearray(victim.read_bytes())
  content[len(content) // 2] ^= 1
  victim.write_bytes(content)
  kept = cache.Cache(tmp_path)
  second = _run(folder, _tasks()[1], members, kept)
  for key, (embeddings, _) in first.items():
    np.testing.assert_allclose(second[key][0], embeddings, rtol=1e-5)
  (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
  assert f'{victim} is damaged' in warning
  assert _run(tmp_path, _tasks()[1], members, cache.Cache(tmp_path)).keys() == first.keys()


def test_a_callable_without_a_hash_is_not_cached(folder, tmp_path):
  member = dataclasses.replace(pool.read(folder / 'pool.json')[8], hash='')
  kept = cache.Cache(tmp_path)
  _run(folder, _tasks()[1], [member], kept)
  assert kept.written == 0


def test_a_callable_may_bring_probabilities(folder):
  own_functions = importlib.import_module('own_functions')

  member = dataclasses.replace(
    pool.read(folder / 'pool.json')[8], weights='own_functions:with_head'
  )
  own_functions.calls.clear()
  decoders, tasks = _tasks('a')
  (found,) = embed.embed_pool([member], str(folder), tasks, _SETTINGS, 4, with_logits=True)
  assert own_functions.calls == [(4, 16, 16, 3), (4, 16, 16, 3), (2, 16, 16, 3)]
  mean = tasks[0].pixels(View(16)).mean((1, 2, 3)) / 255
  np.testing.assert_allclose(found.source(0), np.stack([mean, 1 - mean], 1), rtol=1e-5)


def test_source_is_the_softmax_over_the_leaves(folder):
  members = pool.read(folder / 'pool.json')[:1]
  (found,) = embed.embed_pool(members, str(folder), _tasks('a')[1], _SETTINGS, 8, with_logits=True)
  logits = found.logits[0].astype(float)[:, :3]
  expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  np.testing.assert_allclose(found.source(0, leaves=3), expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('function', 'message'),
  [
    ('flat', r"model 'function': own_functions:flat returned embeddings of shape \(6144,\) for 8 im"),
    ('short', r'returned embeddings of shape \(7, 2\) for 8 images'),
    ('wide', r"'function' .*'a': embeddings have shape \(10, 3\); 10 images .* make it \(10, 2\)"),
    ('failing', r"'function': own_functions:failing failed on images \(8, 16, 16, 3\): IndexError"),
    ('unsure', r"'function': own_functions:unsure returned probabilities .* 1.5 to 1.5; they must"),
    ('absent', r"'function': own_functions:absent cannot be imported \(.*absent"),
  ],
)  # fmt: skip
def test_a_model_that_fails_is_named_in_one_line(folder, function, message):
  member = pool.read(folder / 'pool.json')[8]
  member = dataclasses.replace(member, weights=f'own_functions:{function}')
  with pytest.raises(ValueError, match=message) as error:
    _run(folder, _tasks('a')[1], [member])
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('function', 'reason'),
  [
    ('nan', "model 'function' on the images of 'a': 1 of 10 embeddings are not finite; check"),
    ('constant', "model 'function' on the images of 'a': all embeddings are the same; check"),
  ],
)
def test_a_model_that_tells_nothing_is_marked_and_not_kept(folder, tmp_path, function, reason):
  members = pool.read(folder / 'pool.json')[8:]
  members[0] = dataclasses.replace(members[0], weights=f'own_functions:{function}')
  for _ in range(2):
    kept = cache.Cache(tmp_path)
    parts = embed.embed_pool(
      members, str(folder), _tasks('a')[1], _SETTINGS, 8, kept, with_logits=True
    )
    unfit = {part.members[0].name: (part.unfit, part.sound().members) for part in parts}
    assert (kept.found, kept.written) == (0, 0)
    assert unfit['table'] == ([''], [members[1]])
    (why,), sound = unfit['function']
    assert why.startswith(reason)
    assert sound == []


def test_of_a_unit_the_sound_models_are_left():
  rows = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
  task = embed.Images('a', 2, _Decoder())
  unit = embed.Embedded(['x', 'y', 'z'], task, rows, [None, rows[0], rows[1]], ['', 'no', ''])
  left = unit.sound()
  assert (left.members, left.unfit) == (['x', 'z'], ['', ''])
  np.testing.assert_array_equal(left.embeddings, rows[[0, 2]])
  assert left.logits[0] is None
  np.testing.assert_array_equal(left.logits[1], rows[1])


@pytest.mark.parametrize('name', ['baseline', 'full1', 'adapter1', 'bit', 'table'])
def test_weights_that_differ_from_the_pool_are_refused(folder, name):
  member = next(m for m in pool.read(folder / 'pool.json') if m.name == name)
  member = dataclasses.replace(member, hash='0' * 64)
  with pytest.raises(ValueError, match=f"{name}.npz: not the weights .* lists for '{name}'"):
    _run(folder, _tasks('a')[1], [member])


def test_an_adapter_on_another_backbone_is_refused(folder):
  member = dataclasses.replace(pool.read(folder / 'pool.json')[5], backbone='full1.npz')
  with pytest.raises(ValueError, match=r"full1.npz: not the weights .* lists for 'adapter1'"):
    _run(folder, _tasks('a')[1], [member])


@pytest.mark.parametrize('place', [0, 7, 9])
def test_missing_weights_are_named(folder, place):
  member = dataclasses.replace(pool.read(folder / 'pool.json')[place], weights='gone.npz')
  with pytest.raises(FileNotFoundError, match=rf"no weights of '{member.name}' at .*gone.npz"):
    _run(folder, _tasks('a')[1], [member])


def test_embeddings_of_another_task_are_told(folder):
  member = pool.read(folder / 'pool.json')[9]
  with pytest.raises(ValueError, match=r"table.npz has no embeddings of the task 'c'; .* a, b"):
    _run(folder, _tasks('c')[1], [member])


def test_images_of_another_shape_are_refused(folder):
  task = embed.Images('a', 11, _Decoder())
  with pytest.raises(ValueError, match=r"'a' are uint8 \(10, 16, 16, 3\), not uint8 \(11, 16"):
    _run(folder, [task], pool.read(folder / 'pool.json')[:1])


def test_the_next_weights_are_read_while_one_computes_and_no_more(tmp_path, monkeypatch):
  loaded = [threading.Event() for _ in range(4)]
  monkeypatch.setattr(sys, 'loaded_events', loaded, raising=False)
  monkeypatch.syspath_prepend(tmp_path)
  one = pool.Member('', 'callable', '', None, 0, 0, 2, '', '', size=16)
  members = []
  for i in range(4):
    (tmp_path / f'slow_to_load{i}.py').write_text(
      f'{_MODULE}\nimport sys\nsys.loaded_events[{i}].set()\n'
    )
    members.append(dataclasses.replace(one, name=str(i), weights=f'slow_to_load{i}:statistics'))
  stream = embed.embed_pool(members, str(tmp_path), _tasks('ab')[1], {}, 8)
  for i in range(3):
    next(stream)
    assert loaded[i + 1].wait(20)
    assert not any(event.is_set() for event in loaded[i + 2 :])
    next(stream)


def test_memory_does_not_grow_with_the_pool(folder):
  member = pool.read(folder / 'pool.json')[0]
  size = weights.load(folder / member.weights)['backbone']
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(size))
  tasks = _tasks('a')[1]
  # A unit is a model on each of the devices.
  unit = size * jax.local_device_count()
  before = sum(array.nbytes for array in jax.live_arrays())
  members = [dataclasses.replace(member, name=str(i)) for i in range(64)]
  most = 0
  for _ in embed.embed_pool(members, str(folder), tasks, _SETTINGS, 8):
    most = max(most, sum(array.nbytes for array in jax.live_arrays()) - before)
  assert unit <= most <= 2.5 * unit


@pytest.mark.parametrize('readers', [1, 3, 9])
def test_readers_are_so_many_units_ahead_and_units_come_in_order(readers):
  events = [threading.Event() for _ in range(6)]

  def load(unit):
    events[unit].set()
    return -unit

  for unit, found in read_ahead(load, list(range(6)), readers):
    assert found == -unit
    assert all(event.wait(20) for event in events[: unit + readers + 1])
    assert not any(event.is_set() for event in events[unit + readers + 1 :])
  assert unit == 5


def test_one_ahead_is_drawn_while_one_is_used_and_no_more():
  drawn, closed = [threading.Event() for _ in range(5)], threading.Event()

  def stream():
    try:
      for i, event in enumerate(drawn):
        event.set()
        yield i
    finally:
      closed.set()

  ahead = one_ahead(stream())
  for i in range(3):
    assert next(ahead) == i
    assert drawn[i + 1].wait(20)
    assert not any(event.is_set() for event in drawn[i + 2 :])
  ahead.close()
  assert closed.is_set()
  assert list(one_ahead(i for i in range(3))) == [0, 1, 2]


def test_what_fails_ahead_is_raised_where_it_is_used():
  def stream():
    yield 1
    raise ValueError('model b fails')

  ahead = one_ahead(stream())
  assert next(ahead) == 1
  with pytest.raises(ValueError, match='model b fails'):
    next(ahead)


def test_images_that_fit_a_device_are_copied_there_once(folder, monkeypatch):
  members = [
    m for m in pool.read(folder / 'pool.json') if m.kind in ('full', 'baseline', 'adapter')
  ]
  copied, put = [], jax.device_put

  def counting(value, *rest):
    if getattr(value, 'dtype', None) == np.uint8:
      copied.append(len(value))
    return put(value, *rest)

  monkeypatch.setattr(jax, 'device_put', counting)
  monkeypatch.setattr(jax, 'local_device_count', lambda: 1)
  monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])
  streamed = _run(folder, _tasks('ab')[1], members)
  passes = len(copied) // 4
  assert passes > 1
  assert copied == [8, 8] * 2 * passes
  copied.clear()
  monkeypatch.setattr(embed, '_room', lambda: 2 * _COUNT * _SIZE**2 * 3)
  held = _run(folder, _tasks('ab')[1], members)
  assert copied == [8, 8] * 2
  jax.tree.map(np.testing.assert_array_equal, held, streamed)
  copied.clear()
  # Room for one task: the other's are copied for each unit.
  monkeypatch.setattr(embed, '_room', lambda: 2 * _COUNT * _SIZE**2 * 3 - 1)
  _run(folder, _tasks('ab')[1], members)
  assert copied == [8, 8] * (1 + passes)


def test_halving_embeds_parts_of_the_images(folder):
  members = [m for m in pool.read(folder / 'pool.json') if KINDS[m.kind].shared]
  decoders, (task,) = _tasks('a')

  def embed_part(models, indices):
    part = embed.embed_pool(
      [members[i] for i in models], str(folder), [task.take(indices)], _SETTINGS, 8
    )
    for found in part:
      for member, own in zip(found.members, found.embeddings):
        yield members.index(member), own

  labels = np.arange(_COUNT) % 2
  order = halving.stratified(labels)
  score = lambda model, embeddings, labels: embeddings[labels == 1, 0].mean()
  found = halving.search(len(members), labels, embed_part, score, [0], start=4)
  assert found.rounds[0] == (4, 7)
  assert found.embedded < 7 * _COUNT
  whole = _run(folder, [task], members)
  for i, member in enumerate(members):
    if found.seen[i] == _COUNT:
      expected = score(i, whole[member.name, 'a'][0][order], labels[order])
      np.testing.assert_allclose(found.scores[i], expected, rtol=1e-4)
  assert decoders[0].calls == [(16, 0)]


def test_images_of_many_tasks_wait_on_disk(folder, tmp_path):
  """What a task's images take between models is room on disk, which nothing has to clear up."""
  decoders, held = _tasks('ab')
  waiting = [
    embed.Images(task.name, _COUNT, decoder, folder=str(tmp_path))
    for task, decoder in zip(held, decoders, strict=True)
  ]
  for mine, theirs in zip(waiting, held, strict=True):
    assert isinstance(mine.pixels(View(_SIZE)), np.memmap)
    np.testing.assert_array_equal(mine.pixels(View(_SIZE)), theirs.pixels(View(_SIZE)))
    part = mine.take(np.array([7, 2])).pixels(View(_SIZE))
    np.testing.assert_array_equal(part, theirs.pixels(View(_SIZE))[[7, 2]])
  # Once for those on disk and once for those in memory.
  assert [len(decoder.calls) for decoder in decoders] == [2, 2]
  assert not list(tmp_path.iterdir())
  members = [m for m in pool.read(folder / 'pool.json') if m.kind in ('callable', 'embeddings')]
  found, expected = _run(folder, waiting, members), _run(folder, held, members)
  for key, (embeddings, _) in expected.items():
    np.testing.assert_array_equal(found[key][0], embeddings)


def test_tables_give_the_embeddings_of_the_images_that_are_looked_at(folder):
  members = [m for m in pool.read(folder / 'pool.json') if m.kind == 'embeddings']
  table = np.load(folder / 'table.npz')['a'].astype(np.float32)
  some = embed.Images('a', 3, _Decoder(), rows=np.array([1, 4, 7]), whole=_COUNT)
  np.testing.assert_array_equal(_run(folder, [some], members)['table', 'a'][0], table[[1, 4, 7]])
  fewer = some.take(np.array([2, 0]))
  np.testing.assert_array_equal(_run(folder, [fewer], members)['table', 'a'][0], table[[7, 1]])
  whole = embed.Images('a', _COUNT, _Decoder()).take(np.array([3]))
  assert _run(folder, [whole], members[:0]) == {}
  assert whole.rows.tolist() == [3]
  other = embed.Images('a', 3, _Decoder(), rows=np.array([1, 4, 7]), whole=99)
  with pytest.raises(
    ValueError, match=r"table.npz has 10 embeddings of the task 'a', which has 99 i"
  ):
    _run(folder, [other], members)
