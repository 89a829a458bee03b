"""Phase 6: the tables and curves of a workdir's results."""

import os

import pandas as pd

from experts.phases import members, select
from experts.reporting import figures, tables
from experts.training import hosts
from experts.training.board import Board


def run(config: members.Config, workdir: str, board: Board) -> None:
  """Leaves report/report.md, report/table.csv and a kNN curve of every task, and prints the table."""
  if not hosts.first():
    return
  scores = pd.read_csv(f'{workdir}/scores.csv')
  trials = pd.read_csv(f'{workdir}/trials.csv')
  folder = f'{workdir}/report'
  os.makedirs(folder, exist_ok=True)
  strategy = select.strategy_names(config)[0]
  table = tables.report_table(scores, trials, strategy, config.select.budget)
  members.write_csv(table, f'{folder}/table.csv')
  pictures = figures.write_all(scores, folder)
  costs = []
  if os.path.exists(f'{workdir}/costs.csv'):
    prices = tables.cost_table(pd.read_csv(f'{workdir}/costs.csv'))
    costs = [
      'What a network for a task costs before it is fine-tuned:',
      '',
      tables.to_markdown(prices),
      '',
    ]
  text = '\n'.join(
    [
      '# Transfer with experts',
      '',
      'Test accuracies after fine-tuning, medians over the retrained models. The expert is chosen by the leave-one-out',
      'accuracy of the nearest neighbour (kNN) on the training images, before any fine-tuning.',
      '',
      tables.to_markdown(table),
      '',
      *costs,
      *(f'![{name}]({name})' for name in pictures),
      '',
    ]
  )
  with open(f'{folder}/report.md.tmp', 'w', encoding='utf-8') as file:
    file.write(text)
  os.replace(f'{folder}/report.md.tmp', f'{folder}/report.md')
  board.text('report', 0, {'table': tables.to_markdown(table)})
  print(tables.to_terminal(table))
  print(f'\nreport: {folder}/report.md\ncurves: tensorboard --logdir {workdir}/tensorboard')
