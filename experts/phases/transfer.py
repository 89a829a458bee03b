"""Phase 5: fine-tune models of the pool on every task (EXP §6, App. E)."""

import os

from absl import logging

from experts.reporting import results, tables
from experts.runs import candidates, fine_tuning, plans, sweeps, tasks, views
from experts.runs.description import Config
from experts.selection import pool
from experts.training.board import Board


def run(config: Config, workdir: str, board: Board) -> None:
  """Leaves trials.csv, and for each task the fine-tuned chosen model in transfer/<task>/.

  Raises:
    ValueError: scores.csv has no ranks of the strategy that chooses on some task, or names models that the pool has not.
  """
  path = candidates.pool_path(config, workdir)
  settings, known = pool.read_model(path), pool.read(path)
  scores = results.read_scores(f'{workdir}/scores.csv')
  table = sweeps.Trials(f'{workdir}/trials.csv')
  # All of it is said before the first of many hours.
  plan = {name: plans.plan(config, scores, known, name) for name in config.tasks}
  checked = set()
  for name, (wanted, _) in plan.items():
    for member in wanted:
      sized = tasks.sized(config, member, settings, name)
      if (member.name, sized.image.size) not in checked:
        fine_tuning.check(sized, settings, member, os.path.dirname(path))
        checked.add((member.name, sized.image.size))
  tuned = {member.name: member for wanted, _ in plan.values() for member in wanted}
  tasks.write(
    config, workdir, tasks.load_all(config, tasks.sizes_of(config, [*tuned.values()], settings))
  )
  for name, (wanted, scored) in plan.items():
    trainers, opened = {}, {}
    for i, member in enumerate(wanted, 1):
      logging.info('transfer: %s, model %d of %d: %s', name, i, len(wanted), member.name)
      sized = tasks.sized(config, member, settings, name)
      shown = views.train_transform(sized.image, sized.transfer)
      if shown not in opened:
        opened[shown] = fine_tuning.open_task(sized, name)
      trainer = fine_tuning.Trainer(
        sized, board, settings, opened[shown], member, os.path.dirname(path), table
      )
      # Of a model all of whose trials diverge, nothing is left to retrain.
      if points := trainer.sweep():
        trainers[member.name] = trainer, points
    if wanted and not trainers:
      logging.warning(
        'transfer: %s: all trials of all models have diverged; lower config.transfer.learning_rates', name
      )  # fmt: skip
    best = tables.choose(scored, table.frame(), config.select.budget).model
    if trainers and (lost := [member.name for member in wanted if member.name not in trainers]):
      logging.warning(
        'transfer: %s: all trials of %s diverged; the choice is %s', name, ', '.join(lost), best
      )
    for model, (trainer, points) in trainers.items():
      trainer.retrain(points, f'{workdir}/transfer/{name}' if model == best else '')
    if 'dat' not in config.phases:
      tasks.let_go(config, name)
