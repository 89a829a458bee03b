"""Phase 4: rank the models of the pool for every task, without training any (EXP §5, WHICH §3)."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence

import jax
import numpy as np
import pandas as pd
from absl import logging

from experts.data import batches, slices
from experts.data import hierarchy as hierarchies
from experts.phases import members, scoring, tasks
from experts.reporting import outcomes, picks, statistics, tables
from experts.selection import (
  cache,
  embed,
  halving,
  matching,
  networks,
  pool,
  strategies,
)
from experts.training import hosts
from experts.training.board import Board
from experts.training.progress import Progress

COLUMNS = (
  'task', 'model', 'kind', 'strategy', 'score', 'low', 'high', 'ties', 'duplicates', 'images', 'p_value', 'rank',
)  # fmt: skip
_KNN = ('knn', 'knn_holdout')


def run(config: members.Config, workdir: str, board: Board) -> None:
  """Leaves scores.csv, a row for each task, strategy and model, and picks.csv with the first choices.

  Models are shared out over processes and devices, each of which embeds all images with its own: only the models that a
  host embeds are read there, and nothing crosses the network but the scores.
  """
  chosen = _Pool(config, workdir)
  names = strategy_names(config)
  strategies.check(names, chosen.offers(workdir))
  loaded = [tasks.decodable(task, config.image.undecodable) for task in tasks.load_all(config)]
  search = _by_halving if config.select.first_images else _all_images
  rows, targets, seconds = search(config, chosen, loaded, names)
  rows = [row for part in hosts.gather(rows) for row in part]
  targets = {key: value for part in hosts.gather(targets) for key, value in part.items()}
  # Hosts work side by side.
  seconds = {name: max(part[name] for part in hosts.gather(seconds)) for name in seconds}
  if not hosts.first():
    return
  for task in loaded:
    rows += _without_embeddings(config, chosen, task, names, targets, workdir)
  scores = _ranked(rows, chosen.members, [task.name for task in loaded], names)
  members.write_csv(scores, f'{workdir}/scores.csv')
  table = picks.picks(scores, names[0])
  members.write_csv(table.dropna(axis=1, how='all'), f'{workdir}/picks.csv')
  images = {task.name: int(_looks(rows, task.name)) for task in loaded}
  members.write_costs(
    workdir,
    'selection',
    [{'task': name, 'images': images[name], 'seconds': seconds[name]} for name in images],
  )
  board.text('select', 0, {'picks': tables.to_markdown(picks.wide(table))})
  for (name, strategy), part in scores.groupby(['task', 'strategy']):
    if part.score.notna().any():
      board.histograms('select', 0, {f'{strategy}/{name}': part.score.dropna().to_numpy()})


def strategy_names(config: members.Config) -> tuple[str, ...]:
  """The strategies of `config.strategy`; the first of them chooses."""
  return tuple(name.strip() for name in config.strategy.split(','))


def pool_path(config: members.Config, workdir: str) -> str:
  """The pool that the config names, or the workdir's own, which experts make of it."""
  own = not config.pool or 'experts' in config.phases
  return f'{workdir}/pool.json' if own else os.path.expanduser(config.pool)


class _Pool:
  """The candidates, and what is known of them."""

  def __init__(self, config: members.Config, workdir: str):
    path, section = pool_path(config, workdir), config.select
    self.folder = os.path.dirname(path)
    self.settings = pool.read_model(path)
    self.model = members.make_model(self.settings) if self.settings else None
    self.members = pool.filter(
      pool.read(path),
      section.max_parameters,
      section.max_dimension,
      section.upstream,
      section.kinds,
    )
    # Upstream data -> the hierarchy of its labels, in the order of the heads' outputs.
    self.labels = {}
    for member in self.members:
      file = os.path.join(self.folder, labels_file(member.weights))
      if member.kind == 'baseline' and os.path.exists(file):
        with open(file, encoding='utf-8') as source:
          written = json.load(source)
        self.labels[member.upstream] = hierarchies.from_edges(written['edges'], written['classes'])

  def offers(self, workdir: str) -> set[str]:
    """What strategies may need that is there."""
    found = {'embeddings', 'labels'}
    if any(m.imagenet_accuracy is not None or m.images for m in self.members):
      found.add('metadata')
    # A callable may give probabilities too: it turns out when it is called.
    if any(m.kind not in ('embeddings', 'saved_model') for m in self.members):
      found.add('head')
    if self.labels and any(m.labels for m in self.members):
      found.add('priors')
    if os.path.exists(f'{self.folder}/domain_predictor.json'):
      found.add('predictor')
    if os.path.exists(f'{workdir}/trials.csv'):
      found.add('trials')
    return found

  def mine(self) -> list[pool.Member]:
    """The share of this process, which is empty where there are fewer models than processes."""
    return networks.share(self.members, jax.process_count())[jax.process_index()]

  def leaves(self, member: pool.Member) -> int | None:
    """Outputs of a head that are classes; those of the nodes above them come behind."""
    tree = self.labels.get(member.upstream)
    return tree.num_leaves if tree and member.kind in pool.NETWORKS else None

  def embed(
    self,
    config: members.Config,
    models: Sequence[pool.Member],
    images: Sequence[embed.Images],
    kept: cache.Cache | None,
    with_logits: bool = False,
  ) -> Iterable[embed.Embedded]:
    return embed.embed_pool(
      models, self.folder, images, self.settings, self.model,
      config.run.evaluation_batch, kept, with_logits,
    )  # fmt: skip


def labels_file(weights: str) -> str:
  """Where the names of the outputs of a baseline's head are, and the is-a graph over them."""
  return f'{os.path.splitext(weights)[0]}.labels.json'


def images_of(config: members.Config, task: tasks.Task) -> embed.Images:
  """A task's training images, decoded when a model wants them."""

  def decode(size, resize):
    transform = members.eval_transform(size, resize)
    held = batches.in_memory(task.train, task.all, transform)
    return np.stack([held.image(i) for i in range(len(held))])

  known = task.train.identify()
  indices = hashlib.sha256(task.all.astype(np.int64)).hexdigest()
  return embed.Images(task.name, len(task.all), decode, known and f'{known} {indices}')


def open_cache(config: members.Config) -> cache.Cache | None:
  """Where embeddings are kept between runs, if anywhere."""
  folder = config.run.embedding_cache
  return cache.Cache(os.path.expanduser(folder)) if folder else None


def _all_images(config, chosen, loaded, names):
  """Every model on every image: rows of scores, the baselines' mean predictions, and seconds of each task."""
  rows, targets, seconds = [], {}, dict.fromkeys((task.name for task in loaded), 0.0)
  wanted = scoring.of_embeddings(names)
  by_name = {task.name: task for task in loaded}
  mine = chosen.mine()
  if not wanted:
    # Label matching asks for the baselines' predictions alone.
    mine = [member for member in mine if 'kl' in names and member.kind == 'baseline']
  kept = open_cache(config)
  with_logits = bool({'leep', 'nce', 'kl'} & set(names))
  images = [images_of(config, task) for task in loaded] if mine else []
  began = time.monotonic()
  with Progress(len(mine) * len(loaded), description='select') as progress:
    done = 0
    for unit in chosen.embed(config, mine, images, kept, with_logits):
      task = by_name[unit.images.name]
      found = scoring.score(config, wanted, task, unit, chosen.leaves)
      rows += found
      if 'kl' in names:
        targets |= _targets(task, unit)
      seconds[task.name] += time.monotonic() - began
      done += len(unit.members)
      shown = [row['score'] for row in found if row['strategy'] == names[0]]
      best = {names[0]: max(shown)} if shown else None
      progress.update(done, len(unit.members) * len(task.all), best)
      began = time.monotonic()
  if kept and kept.found:
    # What was in the cache took its time in another run.
    seconds = dict.fromkeys(seconds, float('nan'))
  return rows, targets, seconds


def _by_halving(config, chosen, loaded, names):
  """Few images first, and all of them only for the models that are left; see `halving`."""
  if others := {*scoring.of_embeddings(names), *({'kl'} & set(names))} - {'knn'}:
    raise ValueError(
      f'config.select.first_images={config.select.first_images} halves the pool by kNN; {", ".join(sorted(others))} would '
      'need all models on all images'
    )
  rows, seconds, kept = [], {}, open_cache(config)
  # A control takes no candidate's place among those that go on.
  candidates = [member for member in chosen.members if member.kind != 'random']
  place = {member.name: i for i, member in enumerate(candidates)}
  mine = {place[member.name] for member in chosen.mine() if member.kind != 'random'}
  always = [i for i, member in enumerate(candidates) if member.kind == 'baseline']
  for task in loaded:
    images, last, began = images_of(config, task), {}, time.monotonic()

    def embed_some(models, indices, images=images):
      own = [candidates[i] for i in models if i in mine]
      for unit in chosen.embed(config, own, [images.take(indices)], kept):
        for member, embedded in zip(unit.members, unit.embeddings):
          yield place[member.name], embedded

    def score(model, embeddings, labels, last=last):
      (last[model],) = scoring.by_knn(config, embeddings[None], labels)
      return last[model]['score']

    found = halving.search(
      len(candidates),
      task.labels,
      embed_some,
      score,
      always,
      config.select.first_images,
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


def _targets(task: tasks.Task, unit: embed.Embedded) -> dict[str, list[float]]:
  """'task baseline' -> the mean over the task's images of the baseline's predictions, [Y]."""
  return {
    f'{task.name} {member.upstream}': _sigmoid(logits).mean(axis=0).tolist()
    for member, logits in zip(unit.members, unit.logits)
    if member.kind == 'baseline' and logits is not None
  }


def _without_embeddings(config, chosen, task, names, targets, workdir) -> list[scoring.Row]:
  """Rows of the strategies that need none, or those of other networks than the pool's."""
  found = {}
  if 'random' in names:
    found['random'] = strategies.random(chosen.members, task.name, config.seed)
  if {'task_agnostic', 'hybrid'} & set(names):
    found['task_agnostic'] = strategies.task_agnostic(chosen.members)
  if 'kl' in names:
    found['kl'] = _label_matching(chosen, task, targets)
  if 'epn' in names:
    found['epn'] = _domain_prediction(config, chosen, task)
  if {'oracle', 'oracle_agnostic'} & set(names):
    found |= {
      name: each for name, each in _oracles(config, chosen, task, workdir).items() if name in names
    }
  return [
    {'task': task.name, 'model': member.name, 'strategy': name, 'score': float(value)}
    for name, values in found.items()
    for member, value in zip(chosen.members, values, strict=True)
  ]


def _label_matching(chosen: _Pool, task: tasks.Task, targets: dict) -> np.ndarray:
  """Scores [M] of the models whose upstream labels are known, by their own upstream's baseline (EXP App. B)."""
  scores = np.full(len(chosen.members), np.nan)
  for upstream, tree in chosen.labels.items():
    known = [
      i for i, m in enumerate(chosen.members) if m.upstream == upstream and m.labels and m.images
    ]
    target = targets.get(f'{task.name} {upstream}')
    if not known or target is None:
      continue
    priors = []
    for i in known:
      member = chosen.members[i]
      of_class = np.array([member.labels.get(name, 0) for name in tree.nodes[: tree.num_leaves]])
      priors.append(slices.of_nodes(of_class, tree) / member.images)
    scores[known] = matching.label_matching(np.array([target]), np.array(priors))
  return scores


def _domain_prediction(config, chosen: _Pool, task: tasks.Task) -> np.ndarray:
  """Scores [M] of the experts on the slices that the predictor knows (EXP App. A)."""
  with open(f'{chosen.folder}/domain_predictor.json', encoding='utf-8') as file:
    described = json.load(file)
  predictor = pool.Member(
    name='domain_predictor', kind='baseline', upstream='', slice=None, images=0, parameters=0,
    dimension=chosen.model.embedding_dim, weights=described['weights'], hash=described['hash'],
  )  # fmt: skip
  (unit,) = chosen.embed(config, [predictor], [images_of(config, task)], open_cache(config), True)
  by_node = dict(zip(described['nodes'], matching.epn(np.log(unit.source(0) + 1e-30)), strict=True))
  return np.array([by_node.get(member.slice, np.nan) for member in chosen.members])


def _oracles(config, chosen: _Pool, task: tasks.Task, workdir: str) -> dict[str, np.ndarray]:
  """Test accuracies of what was fine-tuned: of this task, and means over tasks (WHICH §3)."""
  trials = pd.read_csv(f'{workdir}/trials.csv')
  groups = {name: tasks.group(spec.data) for name, spec in config.tasks.items()}
  tested = outcomes.tested(trials, groups).pivot(index='model', columns='task', values='accuracy')
  tested = tested.reindex([member.name for member in chosen.members])
  return {
    'oracle': tested.get(task.name, pd.Series(np.nan, tested.index)).to_numpy(),
    'oracle_agnostic': strategies.oracle_agnostic(tested.T.to_numpy()),
  }


def _ranked(rows, candidates, names_of_tasks, names) -> pd.DataFrame:
  """scores.csv: each strategy's rows with ranks, best first, and McNemar's test against the baseline."""
  by_key = {(row['task'], row['strategy'], row['model']): row for row in rows}
  found = {strategy for _, strategy, _ in by_key}
  ordered = [
    name for name in (*names, *sorted(found - set(names))) if name in found or name == 'hybrid'
  ]
  tables_ = []
  for task in names_of_tasks:
    ranks = {}
    for name in sorted(ordered, key=lambda name: name == 'hybrid'):
      own = 'knn' if name == 'hybrid' else name
      part = [by_key.get((task, own, m.name), {'score': float('nan')}) for m in candidates]
      values = np.array([row['score'] for row in part], float)
      if name == 'hybrid':
        ranks[name] = strategies.hybrid(ranks['task_agnostic'], ranks['knn'])
      else:
        # A model that saw more images than another came further in a search by halving.
        seen = np.array([row.get('images', 0) for row in part], float) if name == 'knn' else 0
        ties = 'parameters' if name == 'task_agnostic' else 'order'
        ranks[name] = strategies.rank(candidates, values + seen, ties)
      if np.isnan(ranks[name]).all():
        raise ValueError(
          f'task {task!r}: the strategy {name} can score no model of the pool; see the warnings above'
        )
      frame = pd.DataFrame(part, columns=[c for c in COLUMNS if c not in ('p_value', 'rank')])
      frame = frame.assign(
        task=task,
        model=[m.name for m in candidates],
        kind=[m.kind for m in candidates],
        strategy=name,
        p_value=_p_values(part, candidates) if name in _KNN else np.nan,
        rank=ranks[name],
      )
      tables_.append(frame)
  scores = pd.concat(tables_, ignore_index=True)[list(COLUMNS)]
  place = {name: i for i, name in enumerate(ordered)}
  scores = scores.assign(
    task_=pd.Categorical(scores.task, names_of_tasks), place=scores.strategy.map(place)
  ).sort_values(['task_', 'place', 'rank'], kind='stable')
  return scores[list(COLUMNS)].astype({'rank': 'Int64', 'duplicates': 'Int64', 'images': 'Int64'})


def _p_values(part: list[scoring.Row], candidates: Sequence[pool.Member]) -> list[float]:
  """McNemar's test of each model against the baseline, on the images that both were scored on."""
  values = np.array([row['score'] for row in part], float)
  baselines = [
    i for i, m in enumerate(candidates) if m.kind == 'baseline' and part[i].get('correct')
  ]
  if not baselines:
    return [float('nan')] * len(part)
  best = max(baselines, key=lambda i: values[i])
  right = scoring.correct(part[best])
  return [
    statistics.mcnemar(scoring.correct(row), right)
    if i != best and row.get('correct') and row['images'] == part[best]['images']
    else float('nan')
    for i, row in enumerate(part)
  ]


def _looks(rows: list[scoring.Row], task: str) -> int:
  """Images embedded for a task, over all models."""
  seen = {}
  for row in rows:
    if row['task'] == task and row.get('images'):
      seen[row['model']] = max(seen.get(row['model'], 0), row['images'])
  return sum(seen.values())


def _sigmoid(logits: np.ndarray) -> np.ndarray:
  return np.asarray(jax.nn.sigmoid(logits))
