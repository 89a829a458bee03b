"""What PyTorch does of `benchmarks.gpu`, as `peer.Peer` asks for it.

The network is timm's `resnetv2_50x1_bit`: channels last, bfloat16 by autocast, `torch.compile` where asked for. Images
come as uint8 and are normalised on the device, as ours are.
"""

import functools
import json
import os
import sys
import time

import numpy as np
import timm
import torch

_DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
_NETWORK = 'resnetv2_50x1_bit'


def _sync():
  if _DEVICE == 'cuda':
    torch.cuda.synchronize()


def _network(classes):
  torch.manual_seed(0)
  net = timm.create_model(_NETWORK, pretrained=False, num_classes=classes)
  return net.to(_DEVICE, memory_format=torch.channels_last)


def _images(number, side):
  """uint8 [N, 3, S, S] that lie in memory as [N, S, S, 3]."""
  drawn = np.random.default_rng(0).integers(0, 256, (number, side, side, 3), np.uint8)
  return torch.from_numpy(drawn).to(_DEVICE).permute(0, 3, 1, 2)


def _apply(net, images):
  with torch.autocast(_DEVICE, torch.bfloat16):
    return net(images.float() / 127.5 - 1)


def _compiled(function, wanted):
  return torch.compile(function, dynamic=False) if wanted else function


def forward(number, batch, side, compiled, streamed=0):
  """Embeds images; with `streamed` other weights are copied from the host's memory before each run."""
  net = _network(0).eval()
  parts = _images(number, side).split(batch)
  apply = _compiled(lambda images: _apply(net, images), compiled)
  host = [
    {key: value.cpu() * (1 + i / 1000) for key, value in net.state_dict().items()}
    for i in range(streamed)
  ]
  runs = 0

  def run():
    nonlocal runs
    if host:
      net.load_state_dict(host[runs % len(host)])
      runs += 1
    with torch.inference_mode():
      return torch.cat([apply(part) for part in parts]).float().cpu()

  return run


def train(batch, side, classes, steps, compiled):
  """Steps of SGD with momentum on a batch that is on the device; sigmoid cross-entropy, as upstream."""
  net = _network(classes).train()
  images = _images(batch, side)
  truth = (torch.rand(batch, classes, device=_DEVICE) < 0.01).float()
  optimizer = torch.optim.SGD(net.parameters(), 0.003, momentum=0.9, weight_decay=1e-4)

  def loss_of(images, truth):
    logits = _apply(net, images).float()
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, truth) * classes

  loss_of = _compiled(loss_of, compiled)

  def run():
    for _ in range(steps):
      optimizer.zero_grad(set_to_none=True)
      loss = loss_of(images, truth)
      loss.backward()
      optimizer.step()
    return loss.item()

  return run


@functools.cache
def _embeddings(models, number, dimension):
  return torch.from_numpy(
    np.random.default_rng(0).standard_normal((models, number, dimension), np.float32)
  )


def neighbours(models, number, dimension, classes, form, resident):
  """1-NN leave-one-out of each model, from embeddings on the device or in the host's memory."""
  torch.backends.cuda.matmul.allow_tf32 = False
  labels = torch.from_numpy(np.random.default_rng(1).integers(classes, size=number)).to(_DEVICE)
  host = _embeddings(models, number, dimension)
  held = host.to(_DEVICE) if resident else host
  # Rows of the distance matrix at a time: all of it, or a gigabyte.
  rows = min(number, max(1, 2**28 // number))

  def score(x):
    correct = 0
    norms = x.square().sum(1)
    for start in range(0, number, rows):
      own = x[start : start + rows]
      if form == 'cdist':
        apart = torch.cdist(own, x)
      else:
        apart = torch.addmm(norms, own, x.T, alpha=-2)
      index = torch.arange(len(own), device=_DEVICE)
      apart[index, start + index] = torch.inf
      correct = correct + (labels[apart.argmin(1)] == labels[start : start + rows]).sum()
    return correct

  def run():
    return torch.stack([score(x.to(_DEVICE)) for x in held]).cpu()

  return run


_FORMS = {'forward': forward, 'train': train, 'neighbours': neighbours}


def _clock(run):
  _sync()
  started = time.perf_counter()
  run()
  _sync()
  return time.perf_counter() - started


def _answer(request, built):
  do, name = request.pop('do'), request.pop('name')
  if do == 'build':
    if _DEVICE == 'cuda':
      torch.cuda.empty_cache()
      torch.cuda.reset_peak_memory_stats()
    run = _FORMS[request.pop('what')](**request)
    first = _clock(run)
    _clock(run)
    built[name] = run
    peak = torch.cuda.max_memory_allocated() if _DEVICE == 'cuda' else 0
    return {'first': first, 'peak_gib': peak / 2**30}
  if do == 'run':
    return {'seconds': _clock(built[name])}
  built.pop(name, None)
  return {}


def main():
  # Replies have the pipe for themselves, whatever libraries print.
  replies = os.fdopen(os.dup(1), 'w', buffering=1)
  os.dup2(2, 1)
  built = {}
  for line in sys.stdin:
    try:
      reply = _answer(json.loads(line), built)
    # The other forms are worth having.
    except Exception as error:
      reply = {'error': f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'[:300]}
    replies.write(json.dumps(reply) + '\n')


if __name__ == '__main__':
  main()
