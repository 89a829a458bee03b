"""Scores of models by what is known of them, without what they make of a task's images."""

import json
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from experts.data import slices, splits
from experts.models import ours
from experts.reporting import files, outcomes
from experts.runs import scoring, tasks
from experts.runs.candidates import Candidates, Shown, images_of, open_cache
from experts.runs.description import Config
from experts.selection import matching, pool, strategies


def blind(
  config: Config,
  chosen: Candidates,
  loaded: Sequence[splits.Task],
  names: Sequence[str],
  workdir: str,
) -> list[scoring.Row]:
  """Rows of the strategies that look at no image at all, of those that are asked for, or that a hybrid rests on."""
  rows = []
  for task in loaded:
    if 'random' in names:
      rows += _rows(
        chosen, task, 'random', strategies.random(chosen.members, task.name, config.seed)
      )
    if {'task_agnostic', 'hybrid'} & set(names):
      agnostic = lambda: strategies.task_agnostic(chosen.members)
      rows += _attempt(chosen, task, 'task_agnostic', agnostic)
    if {'oracle', 'oracle_agnostic'} & set(names):
      for name, values in _oracles(config, chosen, task, workdir).items():
        rows += _rows(chosen, task, name, values) if name in names else []
  return rows


def by_other_networks(
  config: Config,
  chosen: Candidates,
  shown: Shown,
  names: Sequence[str],
  targets: dict[str, list[float]],
) -> list[scoring.Row]:
  """Rows of label matching, by the baselines' mean predictions (`target_key`), and of expert prediction."""
  rows = []
  if 'kl' in names:
    rows += _rows(chosen, shown.task, 'kl', _label_matching(chosen, shown.task, targets))
  if 'epn' in names:
    predicted = lambda: _domain_prediction(config, chosen, shown)
    # As the strategy that chooses it may end the run; else it costs its own column.
    if names[0] == 'epn':
      rows += _rows(chosen, shown.task, 'epn', predicted())
    else:
      rows += _attempt(chosen, shown.task, 'epn', predicted)
  return rows


def target_key(task: str, upstream: str) -> str:
  """Names what a baseline says of a task; no name has a line break."""
  return f'{task}\n{upstream}'


def _attempt(
  chosen: Candidates, task: splits.Task, name: str, compute: Callable[[], np.ndarray]
) -> list[scoring.Row]:
  try:
    return _rows(chosen, task, name, compute())
  except (ValueError, OSError) as error:
    why = scoring.why(task, error)
    return [{**row, 'why': why} for row in _rows(chosen, task, name, chosen.nothing())]


def _rows(chosen, task, name, values) -> list[scoring.Row]:
  return [
    {'task': task.name, 'model': member.name, 'strategy': name, 'score': float(value)}
    for member, value in zip(chosen.members, values, strict=True)
  ]


def _label_matching(chosen: Candidates, task: splits.Task, targets: dict) -> np.ndarray:
  """Scores [M] of the models whose upstream labels are known, by their own upstream's baseline (EXP App. B)."""
  scores = chosen.nothing()
  for upstream, tree in chosen.labels.items():
    known = [
      i for i, m in enumerate(chosen.members) if m.upstream == upstream and m.labels and m.images
    ]
    target = targets.get(target_key(task.name, upstream))
    if not known or target is None:
      continue
    priors = []
    for i in known:
      member = chosen.members[i]
      of_class = np.array([member.labels.get(name, 0) for name in tree.nodes[: tree.num_leaves]])
      priors.append(slices.of_nodes(of_class, tree) / member.images)
    scores[known] = matching.label_matching(np.array([target]), np.array(priors))
  return scores


def _domain_prediction(config, chosen: Candidates, shown: Shown) -> np.ndarray:
  """Scores [M] of the experts on the slices that the predictor knows (EXP App. A)."""
  with open(f'{chosen.folder}/domain_predictor.json', encoding='utf-8') as file:
    described = json.load(file)
  predictor = pool.Member(
    name='domain_predictor', kind='baseline', upstream='', slice=None, images=0, parameters=0,
    dimension=ours.build(chosen.settings).dimension, weights=described['weights'], hash=described['hash'],
  )  # fmt: skip
  (unit,) = chosen.embed(config, [predictor], [images_of(shown)], open_cache(config), True)
  if unit.unfit[0]:
    raise ValueError(unit.unfit[0])
  by_node = dict(zip(described['nodes'], matching.epn(np.log(unit.source(0) + 1e-30)), strict=True))
  return np.array([by_node.get(member.slice, np.nan) for member in chosen.members])


def _oracles(config, chosen: Candidates, task: splits.Task, workdir: str) -> dict[str, np.ndarray]:
  """Test accuracies of what was fine-tuned: of this task, and means over tasks (WHICH §3)."""
  trials = files.read(f'{workdir}/trials.csv')
  groups = {name: tasks.group(spec.data) for name, spec in config.tasks.items()}
  tested = outcomes.tested(trials, groups).pivot(index='model', columns='task', values='accuracy')
  tested = tested.reindex([member.name for member in chosen.members])
  return {
    'oracle': tested.get(task.name, pd.Series(np.nan, tested.index)).to_numpy(),
    'oracle_agnostic': strategies.oracle_agnostic(tested.T.to_numpy()),
  }
