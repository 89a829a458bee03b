"""Phase 4: rank the models of the pool for every task, without training any (EXP §5, WHICH §3)."""

import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np
import pandas as pd
from absl import logging

from experts.data import splits
from experts.data.names import some
from experts.reporting import files, picks, tables
from experts.runs import costs, ranking, rules, scoring, tasks
from experts.runs.candidates import Candidates, Shown, images_of, open_cache, show
from experts.runs.description import Config
from experts.selection import embed, halving, knn, strategies
from experts.training import hosts
from experts.training.board import Board
from experts.training.progress import Progress

# So many models of each task are shown on the terminal.
_SHOWN = 5


def run(config: Config, workdir: str, board: Board) -> None:
  """Leaves scores.csv, a row for each task, strategy and model, and picks.csv with the first choices; prints the best.

  Models are shared out over processes and devices, each of which embeds all images with its own: only the models that a
  host embeds are read there, and nothing crosses the network but the scores.

  Raises:
    ValueError: the strategy that chooses ranks no model on some task; before anything is embedded where that is known,
      else when scores.csv is written.
  """
  chosen = Candidates(config, workdir)
  names = strategies.named(config.strategy)
  able = ranking.possible(chosen, names, workdir)
  _say_licences(chosen)
  sizes = tasks.sizes_of(config, chosen.members, chosen.settings, selects=True)
  opened = tasks.load_all(config, sizes)
  tasks.write(config, workdir, opened)
  shown = [show(config, task) for task in opened]
  loaded = [each.task for each in shown]
  known = rules.blind(config, chosen, loaded, able, workdir)
  ranking.check_chooser(config, chosen, loaded, names[0], known)
  search = _by_halving if config.select.first_images else _all_images
  rows, targets, seconds = search(config, chosen, shown, able)
  rows = [row for part in hosts.gather(rows) for row in part]
  targets = {key: value for part in hosts.gather(targets) for key, value in part.items()}
  # Hosts work side by side.
  seconds = {name: max(part[name] for part in hosts.gather(seconds)) for name in seconds}
  undecided = ''
  if hosts.first():
    for each in shown:
      rows += rules.by_other_networks(config, chosen, each, able, targets)
    rows += known
    ranking.warn(rows)
    ranking.leave_out(rows)
    scores = ranking.ranked(rows, chosen.members, [task.name for task in loaded], names)
    undecided = ranking.undecided(scores, names[0], rows)
    _write(workdir, board, scores, names[0], _images_embedded(rows, loaded), seconds)
  # All processes end alike.
  if undecided := hosts.from_first(undecided):
    raise ValueError(undecided)


def _say_licences(chosen: Candidates) -> None:
  closed = [f'{m.name} ({m.licence})' for m in chosen.competing if not m.commercial]
  if closed and hosts.first():
    logging.warning(
      'select: licences that forbid commercial use: %s; config.select.licences keeps to others', some(closed)
    )  # fmt: skip


def _write(workdir, board, scores: pd.DataFrame, chooser: str, images, seconds) -> None:
  files.write(scores, f'{workdir}/scores.csv')
  costs.write(
    workdir,
    'selection',
    [{'task': name, 'images': images[name], 'seconds': seconds[name]} for name in images],
  )
  for (name, strategy), part in scores.groupby(['task', 'strategy']):
    if part.score.notna().any():
      board.histograms('select', 0, {f'{strategy}/{name}': part.score.dropna().to_numpy()})
  if scores[scores.strategy == chooser]['rank'].isna().all():
    return
  print(tables.ranking_to_terminal(tables.ranking(scores, chooser, _SHOWN)))
  print(f'\nranking: {workdir}/scores.csv')
  table = picks.picks(scores, chooser)
  files.write(table.dropna(axis=1, how='all'), f'{workdir}/picks.csv')
  board.text('select', 0, {'picks': tables.to_markdown(picks.wide(table))})


def _all_images(config, chosen: Candidates, shown: Sequence[Shown], names):
  """Every model on every image: rows of scores, the baselines' mean predictions, and seconds of each task."""
  rows, targets = [], {}
  by_name = {each.task.name: each.task for each in shown}
  seconds = dict.fromkeys(by_name, 0.0)
  wanted = scoring.of_embeddings(names)
  mine = chosen.mine()
  if not wanted:
    # Label matching asks for the baselines' predictions alone.
    mine = [member for member in mine if 'kl' in names and member.kind == 'baseline']
  kept = open_cache(config)
  with_logits = bool({'leep', 'nce', 'kl'} & set(names))
  began = time.monotonic()
  with (
    tempfile.TemporaryDirectory(prefix='experts-') as folder,
    Progress(len(mine) * len(shown), description='select') as progress,
  ):
    # Those of one task stay in memory; those of many wait on disk for the next model.
    folder = folder if len(shown) > 1 else ''
    images = [images_of(each, folder) for each in shown] if mine else []
    done = 0
    for unit in chosen.embed(config, mine, images, kept, with_logits):
      task = by_name[unit.images.name]
      found = scoring.score(config, wanted, task, unit, chosen.leaves)
      rows += found
      if 'kl' in names:
        targets |= _targets(task, unit)
      seconds[task.name] += time.monotonic() - began
      done += len(unit.members)
      scored = [r['score'] for r in found if r['strategy'] == names[0]]
      scored = [value for value in scored if not np.isnan(value)]
      best = {names[0]: max(scored)} if scored else None
      progress.update(done, len(unit.members) * len(task.all), best)
      began = time.monotonic()
  if kept and kept.found:
    # What was in the cache took its time in another run.
    seconds = dict.fromkeys(seconds, float('nan'))
  return rows, targets, seconds


def _by_halving(config, chosen: Candidates, shown: Sequence[Shown], names):
  """Few images first, and all of them only for the models that are left; see `halving`."""
  first = config.select.first_images
  if others := {*scoring.of_embeddings(names), *({'kl'} & set(names))} - {'knn'}:
    raise ValueError(
      f'config.select.first_images={first} halves the pool by kNN; {", ".join(sorted(others))} would '
      'need all models on all images'
    )
  for each in shown:
    number = halving.first_round(each.task.labels, first)
    if reason := knn.undefined(number, config.select.k):
      raise ValueError(
        f'task {each.task.name!r}: config.select.first_images={first} begins with {number} images: {reason}'
      )
  rows, seconds, kept = [], {}, open_cache(config)
  # A control takes no candidate's place among those that go on.
  candidates = [member for member in chosen.members if member.competes]
  place = {member.name: i for i, member in enumerate(candidates)}
  mine = {place[member.name] for member in chosen.mine() if member.competes}
  always = [i for i, member in enumerate(candidates) if member.kind == 'baseline']
  for each in shown:
    task, images, last, began = each.task, images_of(each), {}, time.monotonic()

    unfit = {}

    def embed_some(models, indices, images=images, unfit=unfit):
      own = [candidates[i] for i in models if i in mine]
      for unit in chosen.embed(config, own, [images.take(indices)], kept):
        for member, embedded, reason in zip(unit.members, unit.embeddings, unit.unfit):
          if reason:
            unfit.setdefault(place[member.name], reason)
          yield place[member.name], embedded

    def score(model, embeddings, labels, last=last, unfit=unfit):
      if model in unfit:
        last[model] = scoring.nothing(unfit[model])
      else:
        (last[model],) = scoring.by_knn(config, embeddings[None], labels)
      return last[model]['score']

    found = halving.search(
      len(candidates),
      task.labels,
      embed_some,
      score,
      always,
      first,
      seed=config.seed,
      exchange=_of_all,
    )
    logging.info(
      'select: %s: %s; %d of %d images embedded', task.name,
      ', '.join(f'{models} models on {number} images' for number, models in found.rounds),
      found.embedded, len(candidates) * len(task.all),
    )  # fmt: skip
    rows += [
      {'task': task.name, 'model': candidates[i].name, 'strategy': 'knn', **last[i]}
      for i in sorted(mine)
    ]
    seconds[task.name] = float('nan') if kept and kept.found else time.monotonic() - began
  return rows, {}, seconds


def _of_all(scores: dict[int, float]) -> dict[int, float]:
  """The scores of all processes' models, from those of each."""
  # JSON has names where these have numbers.
  return dict(pair for part in hosts.gather(list(scores.items())) for pair in part)


def _targets(task: splits.Task, unit: embed.Embedded) -> dict[str, list[float]]:
  """What each baseline says of the task: the mean over the images of its predictions, [Y]."""
  return {
    rules.target_key(task.name, member.upstream): _sigmoid(logits).mean(axis=0).tolist()
    for member, logits, reason in zip(unit.members, unit.logits, unit.unfit)
    if member.kind == 'baseline' and logits is not None and not reason
  }


def _images_embedded(rows: list[scoring.Row], loaded: Sequence[splits.Task]) -> dict[str, int]:
  """Images embedded for each task, over all models."""
  seen = {}
  for row in rows:
    if row.get('images'):
      key = row['task'], row['model']
      seen[key] = max(seen.get(key, 0), row['images'])
  return {
    task.name: int(sum(number for (name, _), number in seen.items() if name == task.name))
    for task in loaded
  }


def _sigmoid(logits: np.ndarray) -> np.ndarray:
  return np.asarray(jax.nn.sigmoid(logits))
