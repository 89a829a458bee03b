"""Times embedding: a bank of adapters, the reading of weights meanwhile, and ResNet-50 against PyTorch.

    python -m benchmarks.embed
    python -m benchmarks.embed --quick

Bank: 8 adapter experts over one backbone in one pass, against 8 passes of one expert each; images/s
are images times experts.

Reading ahead: full experts from files, the images of one task each. `device alone` embeds again and
again with weights that it already has; `idle` is the share of the time of a model beyond that. On a
CPU the thread that reads takes its time from the cores that compute, and files come from the page
cache; on an accelerator nothing is shared. `240 × 1,000` is the search of 240 experts on 1,000 images.

PyTorch (on a CPU; needs `torch` and `timm`): timm's `resnetv2_50x1_bit` with the same weights (the embeddings are compared first), equal
threads, both memory layouts. Where ours spends its time is told by leaving parts out, where PyTorch's
does by its profiler.

Forms run in turn, in one process; figures are medians, and best is the fastest run. `--quick` takes
small images and networks.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tabulate
from absl import app, flags

from experts.devices import make_mesh
from experts.models import layers, ours, resnet, weights
from experts.selection import embed, networks, pool

_QUICK = flags.DEFINE_bool('quick', False, 'Small sizes: tells that it runs, not how fast.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Medians are of so many.', lower_bound=5)
_BATCH = flags.DEFINE_integer('batch', 8, 'Images of one pass; on an accelerator 128 or more.')
_IMAGES = flags.DEFINE_integer('images', 16, 'Of a task, in the second table.')
_MODELS = flags.DEFINE_integer('models', 4, 'Full experts of the second table.')
_SHARE = flags.DEFINE_integer('bank', 8, 'Adapter experts of the first table.')


def main(argv):
  del argv
  size = 64 if _QUICK.value else 224
  dtype = jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
  model = resnet.ResNet(14 if _QUICK.value else 50, dtype=dtype)
  params = jax.device_get(resnet.init(model, jax.random.key(0), 10))
  pixels = np.random.default_rng(0).integers(0, 256, (_BATCH.value, size, size, 3), np.uint8)
  device = jax.devices()[0].device_kind
  print(
    f'{device}, {os.cpu_count()} cores, ResNet-{model.depth}, {size}×{size}, {jnp.dtype(dtype)}'
  )
  _bank(model, params, pixels)
  _reading(model, params, size)
  if jax.default_backend() == 'cpu':
    _against_torch(resnet.ResNet(50), size)


def _bank(model, params, pixels) -> None:
  mesh = make_mesh(1, jax.devices()[:1])
  adapters = [
    jax.device_get(resnet.init_adapter(model, jax.random.key(i))) for i in range(_SHARE.value)
  ]
  one = [_stack([adapter]) for adapter in adapters]
  everything = _stack(adapters)
  given = {'backbone': params['backbone']}
  place = lambda bank: jax.device_put(given | {'bank': bank}, mesh.devices.flat[0])
  singles, together = [place(bank) for bank in one], place(everything)
  run = lambda held: networks.embed(
    ours.Network(model), mesh, held, networks.batches(mesh, pixels, len(pixels)), len(pixels)
  )
  times = _in_turn(
    {'separate': lambda: [run(held) for held in singles], 'bank': lambda: run(together)}
  )
  number = len(pixels) * len(adapters)
  rows = [[form, number / _median(t), number / min(t), _ratio(times, 'separate', form)] for form, t in times.items()]  # fmt: skip
  _print(f'{len(adapters)} adapters', ['images/s', 'best', 'ratio'], rows)


def _reading(model, params, size) -> None:
  dtype = jnp.dtype(model.dtype).name
  settings = {**ours.fields(model), 'dtype': dtype, 'size': size, 'resize': 0}
  pixels = np.random.default_rng(1).integers(0, 256, (_IMAGES.value, size, size, 3), np.uint8)
  task = embed.Images('task', len(pixels), lambda *_: pixels)
  with tempfile.TemporaryDirectory() as folder:
    members = []
    for i in range(_MODELS.value):
      trees = jax.tree.map(lambda leaf, i=i: leaf + np.float32(i), params)
      weights.save(f'{folder}/{i}.npz', trees)
      members.append(
        pool.Member(
          str(i),
          'full',
          '',
          None,
          0,
          0,
          model.embedding_dim,
          f'{i}.npz',
          weights.content_hash(trees),
        )
      )

    def search(part):
      for _ in embed.embed_pool(part, folder, [task], settings, _BATCH.value):
        pass

    mesh = make_mesh(1, jax.local_devices()[:1])
    load = lambda: jax.block_until_ready(networks.load_unit(members[:1], folder, mesh, settings)[1])
    held = load()
    times = _in_turn(
      {
        'device alone': lambda: networks.embed(
          ours.Network(model), mesh, held, networks.batches(mesh, pixels, _BATCH.value), len(pixels)
        ),
        'reading alone': load,
        # One call a model: there is no next one whose weights could be read.
        'read, then embed': lambda: [search([member]) for member in members],
        'read ahead': lambda: search(members),
      }
    )
  alone = _median(times['device alone'])
  rows = [[form, _median(times[form]), '', None] for form in ('device alone', 'reading alone')]
  for form in ('read, then embed', 'read ahead'):
    each = _median(times[form]) / len(members)
    idle = f'{100 * max(0, 1 - alone / each):.1f} %'
    rows.append([form, each, idle, 240 * each * 1000 / len(pixels) / 60])
  _print(
    f'{len(members)} full experts, {len(pixels)} images',
    ['s a model', 'idle', '240 × 1,000, min'],
    rows,
  )


def _against_torch(model: resnet.ResNet, size: int) -> None:
  import timm
  import torch

  threads = os.cpu_count()
  torch.set_num_threads(threads)
  params = jax.device_get(resnet.init(model, jax.random.key(0), 10))
  peer = timm.create_model('resnetv2_50x1_bit', pretrained=False, num_classes=10).eval()
  with tempfile.TemporaryDirectory() as folder:
    weights.save_bit(f'{folder}/bit.npz', params)
    peer.load_pretrained(f'{folder}/bit.npz')
  peer.reset_classifier(0)
  images = np.random.default_rng(2).uniform(-1, 1, (_BATCH.value, size, size, 3)).astype(np.float32)
  plain = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
  last = plain.contiguous(memory_format=torch.channels_last)
  peer_last = timm.create_model('resnetv2_50x1_bit', pretrained=False, num_classes=0).eval()
  peer_last.load_state_dict(peer.state_dict())
  peer_last = peer_last.to(memory_format=torch.channels_last)

  def ours(**without) -> Callable[[], np.ndarray]:
    program = jax.jit(lambda params, images: resnet.forward(model, params, images)[1])
    held = {'backbone': params['backbone']}
    with mock.patch.multiple(layers, **without) if without else mock.MagicMock():
      compiled = program.lower(held, images).compile()
    held = jax.device_put(held)
    return lambda: np.asarray(compiled(held, images))

  def torch_form(net, batch) -> Callable[[], np.ndarray]:
    def run():
      with torch.inference_mode():
        return net(batch).numpy()

    return run

  forms = {
    'ours': ours(),
    'PyTorch, NCHW': torch_form(peer, plain),
    'PyTorch, channels last': torch_form(peer_last, last),
    'ours without standardisation': ours(standardize=lambda kernel: kernel),
    'ours without normalisation': ours(
      standardize=lambda kernel: kernel, group_norm=lambda x, scale, bias, groups: x * scale + bias
    ),
  }
  difference = np.abs(forms['ours']() - forms['PyTorch, NCHW']()).max() / np.abs(forms['ours']()).max()  # fmt: skip
  times = _in_turn(forms)
  rows = []
  for form, taken in times.items():
    ratio = _ratio(times, form, 'ours') if form.startswith('PyTorch') else None
    rows.append([form, len(images) / _median(taken), len(images) / min(taken), ratio])
  print(f'\nResNet-50, {size}×{size}, batch {len(images)}, {threads} threads: ours/PyTorch; largest difference {difference:.1e}')  # fmt: skip
  _print('form', ['images/s', 'best', 'ours/'], rows)
  whole, no_std, no_norm = (_median(times[f]) for f in forms if f.startswith('ours'))
  parts = {
    'standardisation of kernels': whole - no_std,
    'group normalisation': no_std - no_norm,
    'convolutions and the rest': no_norm,
  }
  _print('ours', ['share'], [[name, f'{100 * t / whole:.0f} %'] for name, t in parts.items()])
  with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
    forms['PyTorch, channels last']()
  found = sorted(profile.key_averages(), key=lambda e: -e.self_cpu_time_total)
  total = sum(event.self_cpu_time_total for event in found)
  rows = [[e.key, f'{100 * e.self_cpu_time_total / total:.0f} %'] for e in found[:6]]
  _print('PyTorch, channels last', ['share'], rows)


def _stack(trees):
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _in_turn(forms: Mapping[str, Callable]) -> dict[str, list[float]]:
  """Seconds of each run of each form, after one that compiles."""
  times = {form: [] for form in forms}
  for round_ in range(_ROUNDS.value + 1):
    for form, run in forms.items():
      start = time.perf_counter()
      run()
      if round_:
        times[form].append(time.perf_counter() - start)
  return times


def _median(times: list[float]) -> float:
  return statistics.median(times)


def _ratio(times: Mapping[str, list[float]], other: str, form: str) -> float:
  """How many times as fast as another form, the median over the rounds."""
  return _median([one / own for one, own in zip(times[other], times[form])])


def _print(name: str, head: list[str], rows: list[list]) -> None:
  print()
  print(tabulate.tabulate(rows, [name, *head], 'github', floatfmt='.3g'))


if __name__ == '__main__':
  app.run(main)
