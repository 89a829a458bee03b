"""Files that cannot be right: one line that names theirs."""

import pandas as pd
import pytest

from experts.reporting import results

_SCORES = """task,model,kind,strategy,score
digits,B,baseline,knn,0.5
digits,bird,full,knn,0.6
"""
_TRIALS = """task,model,lr,steps,seed,split,accuracy
digits,B,0.1,60,0,validation,0.5
digits,B,0.4,60,0,validation,0.7
digits,B,0.4,60,0,test,0.8
digits,B,0.4,60,1,test,0.82
digits,dat,0.4,60,0,validation,0.7
digits,dat,0.4,60,0,test,0.7
"""


def _read(folder, trials: str = _TRIALS, scores: str = _SCORES) -> pd.DataFrame:
  (folder / 'scores.csv').write_text(scores)
  (folder / 'trials.csv').write_text(trials)
  return results.read_trials(folder / 'trials.csv', results.read_scores(folder / 'scores.csv'))


def test_good_files_are_read(tmp_path):
  table = _read(tmp_path)
  assert len(table) == 6
  assert table.accuracy.dtype == float


@pytest.mark.parametrize(
  ('old', 'new', 'reason'),
  [
    ('validation,0.5', 'validation,50', r'trials.csv line 2: accuracy 50.* is not in \[0, 1\]'),
    ('test,0.82', 'test,high', 'trials.csv line 5: accuracy high is no number'),
    ('0.4,60,1,test', '0.4,many,1,test', 'trials.csv line 5: steps many is no number'),
    ('test,0.82', 'train,0.82', "line 5: unknown split 'train'; known: validation, test"),
    ('digits,B,0.4,60,1', 'digit,B,0.4,60,1', "line 5: unknown task 'digit'; known: digits"),
    ('digits,B,0.4,60,1', 'digits,b,0.4,60,1', "line 5: unknown model 'b'; known: B, bird, dat"),
    ('60,1,test', '60,0,test', 'line 5: repeats line 4 .*seed 0'),
    (
      'digits,B,0.1,60,0,validation,0.5\ndigits,B,0.4,60,0,validation,0.7\n', '',
      "line 2: model 'B' on task 'digits' was retrained, but its sweep has no row of the split 'validation'",
    ),
    # Both settings tested: whoever reads it takes the better.
    ('0.4,60,1,test', '0.1,60,1,test', 'line 5: .*lr 0.1, steps 60, but on line 4 with lr 0.4, .*of different configs'),
    ('validation,0.7\ndigits,B', 'validation,0.4\ndigits,B', r'line 4: .* lr 0.4, .*best on validation is lr 0.1, steps 60 \(line 2\)'),
    ('0.4,60,0,validation,0.7\ndigits,B', '0.4,80,0,validation,0.7\ndigits,B', 'line 4: .* steps 60, but the best on validation is lr 0.4, steps 80'),
    ('lr,steps,seed,split', 'lr,steps,seed,part', 'trials.csv lacks the columns split; it has: task, model'),
    (',seed,split,accuracy\n', ',seed,split,accuracy\na,b,c,d,e,f,g,h,i\n', 'trials.csv line 2: more fields'),
    ('test,0.82', 'test,0.82,1', 'trials.csv: .* line 5, saw 8'),
  ],
)  # fmt: skip
def test_bad_trials_are_refused(tmp_path, old, new, reason):
  assert old in _TRIALS
  with pytest.raises(ValueError, match=reason) as error:
    _read(tmp_path, _TRIALS.replace(old, new, 1))
  assert '\n' not in str(error.value)


def test_equals_on_validation_may_both_be_chosen(tmp_path):
  _read(tmp_path, _TRIALS.replace('validation,0.5', 'validation,0.7'))


_SELECTIONS = """task,model,lr,seed,selection,split,accuracy
digits,B,0.1,0,0,validation,0.5
digits,B,0.4,0,0,validation,0.7
digits,B,0.4,0,0,test,0.8
digits,B,0.1,0,1,validation,0.9
digits,B,0.4,0,1,validation,0.7
digits,B,0.1,0,1,test,0.8
"""


def test_each_selection_chooses_its_own_settings(tmp_path):
  assert len(_read(tmp_path, _SELECTIONS)) == 6
  with pytest.raises(ValueError, match=r'line 4: .*best on validation is lr 0.1 \(line 2\)'):
    _read(tmp_path, _SELECTIONS.replace('0.1,0,0,validation,0.5', '0.1,0,0,validation,0.8'))


def test_settings_that_some_tasks_lack_are_no_difference(tmp_path):
  header, *lines = _SELECTIONS.splitlines()
  text = '\n'.join([header + ',mixup', *(line + ',' for line in lines)])
  assert len(_read(tmp_path, text)) == 6


# Two selections of a random search: each draws settings of its own.
_DRAWN = """task,model,selection,lr,steps,weight_decay,mixup,seed,split,accuracy
digits,B,0,0.002113,2000,3.21e-06,0.1,0,validation,0.5
digits,B,0,0.1042,8000,0.004511,0.0,0,validation,0.7
digits,B,1,0.03005,32000,0.0001,0.4,1,validation,0.6
digits,B,1,0.03005,32000,0.0002,0.4,1,validation,0.65
digits,B,0,0.1042,8000,0.004511,0.0,0,test,0.8
digits,B,0,0.1042,8000,0.004511,0.0,1,test,0.81
digits,B,1,0.03005,32000,0.0002,0.4,2,test,0.82
"""


def test_settings_are_numbers_and_drawn_for_each_selection(tmp_path):
  table = _read(tmp_path, _DRAWN)
  assert (
    table[['lr', 'steps', 'weight_decay', 'mixup']].dtypes.map(pd.api.types.is_numeric_dtype).all()
  )
  assert table.weight_decay.iloc[0] == 3.21e-06


@pytest.mark.parametrize(
  ('old', 'new', 'reason'),
  [
    # They differ in the weight decay alone, or in the mixup alone.
    ('0.0002,0.4,2,test', '0.0001,0.4,2,test', r'line 8: .*weight_decay 0.0001, .*best on validation is .*weight_decay 0.0002, mixup 0.4 \(line 5\)'),
    ('0.0,1,test', '0.2,1,test', 'line 7: .*mixup 0.2, but on line 6 with .*mixup 0.0'),
    # The best of the other selection, which is better.
    ('1,0.03005,32000,0.0002,0.4,2,test', '1,0.1042,8000,0.004511,0.0,2,test', r'line 8: .*best on validation is lr 0.03005, .* \(line 5\)'),
    ('B,1,0.03005,32000,0.0002,0.4,2,test', 'B,2,0.03005,32000,0.0002,0.4,2,test', "line 8: .*sweep has no row of the split 'validation'"),
    ('0.0,1,test', '0.0,0,test', 'line 7: repeats line 6 .*weight_decay 0.004511, mixup 0.0, seed 0'),
  ],
)  # fmt: skip
def test_each_drawn_selection_is_checked_against_its_own_sweep(tmp_path, old, new, reason):
  assert old in _DRAWN
  with pytest.raises(ValueError, match=reason):
    _read(tmp_path, _DRAWN.replace(old, new, 1))


def test_old_rows_without_the_newer_settings_are_read_beside_new_ones(tmp_path):
  old = """digits,bird,,0.1,60,,,0,validation,0.5
digits,bird,,0.4,60,,,0,validation,0.6
digits,bird,,0.4,60,,,0,test,0.7
"""
  assert len(_read(tmp_path, _DRAWN + old)) == 10
  wrong = old.replace('0.4,60,,,0,test', '0.1,60,,,0,test')
  with pytest.raises(ValueError, match=r'line 11: .*best on validation is lr 0.4.* \(line 10\)'):
    _read(tmp_path, _DRAWN + wrong)


def test_two_configs_under_one_name_are_refused(tmp_path):
  header, *lines = _TRIALS.splitlines()
  named = [f'{line},{"vtab" if i < 3 else "quick"}' for i, line in enumerate(lines)]
  with pytest.raises(
    ValueError, match=r"line 5: model 'B' .* has config 'quick', and 'vtab' above"
  ):
    _read(tmp_path, '\n'.join([f'{header},config', *named]))


def test_scores_given_twice_are_refused(tmp_path):
  with pytest.raises(
    ValueError, match=r'scores.csv line 4: repeats line 2 \(task digits, model B, strategy knn\)'
  ):
    _read(tmp_path, scores=_SCORES + 'digits,B,baseline,knn,0.4\n')


def test_names_may_look_like_missing_values(tmp_path):
  scores = _SCORES.replace('digits,bird', 'digits,NA')
  _read(tmp_path, _TRIALS.replace('digits,B', 'digits,NA'), scores)


def test_a_missing_file_names_the_phase_that_writes_it(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"trials.csv: the phase 'transfer' writes them"):
    results.read_trials(tmp_path / 'trials.csv', pd.DataFrame())


def test_an_empty_file_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'trials.csv: No columns'):
    _read(tmp_path, '')


_TASKS = """task,data,version,drift,classes,fit,validation,test,metric,statistic
pets,natural6:pets,oxford_iiit_pet/4.0.0,True,37,2944,736,3669,mean_per_class,mean
digits,glyphs:digits,,,10,800,200,500,accuracy,median
"""


def test_tasks_are_read_with_their_versions_as_text(tmp_path):
  path = tmp_path / 'tasks.csv'
  path.write_text(_TASKS.replace('oxford_iiit_pet/4.0.0', '4.0'))
  table = results.read_tasks(path)
  assert table.version.iloc[0] == '4.0'
  assert table.drift.iloc[0] is True
  assert table.loc[1, ['version', 'drift']].isna().all()


@pytest.mark.parametrize(
  ('old', 'new', 'reason'),
  [
    ('version,drift', 'version,moved', 'tasks.csv lacks the columns drift; it has: task, data'),
    ('4.0.0,True', '4.0.0,yes', "tasks.csv line 2: drift 'yes' is neither True nor False"),
    ('digits,glyphs', 'pets,glyphs', r'tasks.csv line 3: repeats line 2 \(task pets\)'),
  ],
)
def test_bad_tasks_are_refused(tmp_path, old, new, reason):
  path = tmp_path / 'tasks.csv'
  path.write_text(_TASKS.replace(old, new, 1))
  with pytest.raises(ValueError, match=reason):
    results.read_tasks(path)


@pytest.mark.parametrize(
  ('old', 'new', 'rows'),
  [
    # A retrained model, a trial of the sweep, and a whole sweep.
    ('test,0.82', 'test,', 6),
    ('validation,0.5', 'validation,nan', 6),
    ('validation,0.7\ndigits,dat,0.4,60,0,test,0.7', 'validation,\ndigits,dat,0.4,60,0,test,', 6),
  ],
)
def test_runs_that_diverged_have_no_accuracy(tmp_path, old, new, rows):
  assert old in _TRIALS
  table = _read(tmp_path, _TRIALS.replace(old, new, 1))
  assert len(table) == rows
  assert table.accuracy.isna().any()


def test_settings_that_diverged_are_not_the_best(tmp_path):
  with pytest.raises(
    ValueError, match=r'line 4: .*best on validation is lr 0.1, steps 60 \(line 2\)'
  ):
    _read(tmp_path, _TRIALS.replace('validation,0.7', 'validation,', 1))


@pytest.mark.parametrize('column', ['task', 'model', 'strategy'])
def test_rows_without_a_name_are_refused(tmp_path, column):
  place = 'digits,bird,full,knn'
  parts = dict(zip(('task', 'model', 'kind', 'strategy'), place.split(','), strict=True)) | {
    column: ''
  }
  with pytest.raises(ValueError, match=f'scores.csv line 3: no {column}'):
    _read(tmp_path, scores=_SCORES.replace(place, ','.join(parts.values())))


def test_tasks_that_the_tables_could_not_tell_are_refused(tmp_path):
  with pytest.raises(ValueError, match="cannot be named 'x' and 'x low'"):
    results.check_tasks(['x', 'y', 'x low'])
  with pytest.raises(ValueError, match="cannot be named 'method'"):
    _read(tmp_path, scores=_SCORES.replace('digits', 'method'))
  results.check_tasks(['x low', 'low', ' low', 'natural'])


def test_experts_on_random_slices_are_controls_in_older_files_too(tmp_path):
  path = tmp_path / 'scores.csv'
  path.write_text(_SCORES + 'digits,full:random like bird,full,knn,0.9\n')
  assert results.read_scores(path).kind.tolist() == ['baseline', 'full', 'control']
