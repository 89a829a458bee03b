"""What the report phase makes of a folder's files."""

import pandas as pd
import pytest

from configs import report as config_of_report
from experts.phases import report
from experts.reporting import summary

_RUNS = {'B': [0.5, 0.5, 0.5], 'bird': [0.4, 0.45, 0.95]}
_TASKS = """task,data,version,drift,classes,fit,validation,test,metric,statistic
pets,natural6:pets,oxford_iiit_pet/4.0.0,True,37,2944,736,3669,mean_per_class,mean
svhn,vtab:svhn,svhn_cropped/3.0.0,False,10,800,200,26032,accuracy,median
"""


@pytest.fixture
def folder(tmp_path):
  """Of B and of an expert with one run far ahead: by the mean the expert is better, by the median B is."""
  scores, trials = [], []
  for task in ('pets', 'svhn'):
    for rank, (model, runs) in enumerate(_RUNS.items(), 1):
      kind = 'baseline' if model == 'B' else 'full'
      scores.append((task, model, kind, 'knn', 1 - rank / 10))
      trials.append((task, model, 0, 0.1, 60, 1e-4, 0.05, 0, 'validation', 0.5))
      trials += [
        (task, model, 0, 0.1, 60, 1e-4, 0.05, seed, 'test', accuracy)
        for seed, accuracy in enumerate(runs)
      ]
  columns = ['task', 'model', 'kind', 'strategy', 'score']
  pd.DataFrame(scores, columns=columns).to_csv(tmp_path / 'scores.csv', index=False)
  columns = [
    'task', 'model', 'selection', 'lr', 'steps', 'weight_decay', 'mixup', 'seed', 'split', 'accuracy',
  ]  # fmt: skip
  pd.DataFrame(trials, columns=columns).to_csv(tmp_path / 'trials.csv', index=False)
  (tmp_path / 'tasks.csv').write_text(_TASKS)
  return tmp_path


def _read(folder, **section):
  config = config_of_report.get_config()
  config.report.update(section)
  return report.read(config, str(folder), 'elsewhere')


def test_tasks_csv_says_which_task_is_measured_by_its_mean(folder):
  found = _read(folder)
  assert (found.groups['pets'], found.groups['svhn']) == (summary.NATURAL_SIX, 'natural')
  accuracy = found.tables.scores.groupby(['task', 'model']).accuracy.first()
  assert accuracy.to_dict() == pytest.approx(
    {('pets', 'B'): 0.5, ('pets', 'bird'): 0.6, ('svhn', 'B'): 0.5, ('svhn', 'bird'): 0.45}
  )
  best = found.tables.regrets.drop_duplicates('task').set_index('task').best_model
  assert best.to_dict() == {'pets': 'bird', 'svhn': 'B'}


def test_the_overview_agrees_with_the_regrets(folder, tmp_path, capsys):
  config = config_of_report.get_config()
  config.results = str(folder)
  report.run(config, str(tmp_path / 'out'), _Silent())
  table = pd.read_csv(tmp_path / 'out/report/table.csv').set_index('task')
  assert table['best by hindsight'][['pets', 'svhn']].tolist() == ['bird', 'B']
  assert table['best accuracy'][['pets', 'svhn']].tolist() == pytest.approx([0.6, 0.5])
  (printed,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith('pets ')]
  assert printed.split()[-3:] == ['bird', '60.0', '3']
  assert 'oxford_iiit_pet/4.0.0' in (tmp_path / 'out/report/report.md').read_text()


class _Silent:
  def text(self, *_):
    pass


def test_clusters_are_the_configs_choice(folder):
  assert not _read(folder).cluster
  assert _read(folder, cluster=True).cluster


def test_sweeps_without_retrains_are_as_if_nothing_was_tested(folder):
  trials = pd.read_csv(folder / 'trials.csv')
  trials[trials.split == 'validation'].to_csv(folder / 'trials.csv', index=False)
  found = _read(folder)
  assert found.tables.regrets.empty
  assert found.tables.scores.accuracy.isna().all()
  assert len(found.trials) == 4


def test_results_without_tasks_csv_have_no_such_table(folder):
  (folder / 'tasks.csv').unlink()
  found = _read(folder)
  assert found.tasks is None
  assert found.groups['pets'] == summary.OTHER
