"""The report as files, and in a browser."""

import dataclasses
import html.parser
import json
import pathlib
import re
import shutil
import subprocess

import pandas as pd
import pytest

from benchmarks import report
from experts.reporting import contents, page, picks, study, summary
from experts.selection import evaluation

_GROUPS = {
  'svhn': 'natural', 'dtd': 'natural', 'eurosat': 'specialized', 'dmlab': 'structured',
  'cars': summary.NATURAL_SIX, 'my <own> & other': summary.OTHER,
}  # fmt: skip
_BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')


@pytest.fixture(scope='module')
def simulated(tmp_path_factory) -> contents.Results:
  folder = tmp_path_factory.mktemp('simulated')
  members = report.simulate(folder, _GROUPS, experts=2)
  return report.load(folder, members, _GROUPS)


@pytest.fixture(scope='module')
def written(simulated, tmp_path_factory) -> pathlib.Path:
  return page.write(simulated, tmp_path_factory.mktemp('report'))


def _tiny() -> contents.Results:
  """One task, one model, nothing fine-tuned."""
  scores = pd.DataFrame(
    [('t', 'B', 'baseline', 'knn', 0.5)], columns=['task', 'model', 'kind', 'strategy', 'score']
  )
  joined = evaluation.join(scores, None)
  regrets = evaluation.regrets(joined)
  tables = study.Tables(
    scores=joined,
    members=pd.DataFrame(
      {'model': ['B'], 'upstream': 'u', 'dimension': 8, 'slice': [None], 'images': 9}
    ),
    picks=picks.picks(joined),
    regrets=regrets,
    by_budget=evaluation.by_budget(regrets),
    deltas=evaluation.deltas(regrets, [1, 2]),
    correlations=evaluation.correlations(joined),
  )
  trials = pd.DataFrame(columns=['task', 'model', 'lr', 'steps', 'seed', 'split', 'accuracy'])
  return contents.Results(tables, trials, {})


def test_the_page_needs_nothing_else(written):
  text = written.read_text(encoding='utf-8')
  sources = re.findall(r'\b(?:src|href)="([^"]*)"', text)
  assert sources
  assert all(each.startswith(('data:', '#')) for each in sources)
  assert not re.search(r'url\(|@import|https?://|fetch\(|<iframe', text)
  anchors = {each[1:] for each in sources if each.startswith('#')}
  assert anchors <= set(re.findall(r'\bid="([^"]*)"', text))


def test_all_parts_are_there_with_their_files(written, simulated):
  folder = written.parent
  text, marks = (
    written.read_text(encoding='utf-8'),
    (folder / 'report.md').read_text(encoding='utf-8'),
  )
  for number in range(1, 9):
    assert f'<h3>Table {number}: ' in text
    assert f'### Table {number}: ' in marks
    assert len(pd.read_csv(folder / f'exp_table_{number}.csv'))
  pictures = re.findall(r'!\[.*\]\((.*\.png)\)', marks)
  # [EXP] 2, 4-8, 10, 11 and [WHICH] 3-7.
  assert len(pictures) == text.count('<img ') == 8 + 5
  assert all(
    (folder / name).exists() and (folder / name).with_suffix('.csv').exists() for name in pictures
  )
  assert '<p>Nothing: all tables and figures are here.</p>' in text
  assert 'class="lacking"' not in text
  assert not list(folder.glob('*.tmp'))


def test_what_is_lacking_names_its_run(tmp_path):
  text = page.write(_tiny(), tmp_path).read_text(encoding='utf-8')
  lacking = re.findall(r'Not here: (.*?)</p>', text)
  # Four tables of VTAB, two of the natural six, settings, cost; all figures but the ranking.
  assert len(lacking) == 4 + 2 + 2 + 12
  assert all(
    re.search(
      'phase &#x27;(select|transfer|experts|upstream|dat)&#x27;|natural6:TASK|pool add', each
    )
    for each in lacking
  )
  listed = text[text.index('id="missing"') :]
  assert listed.count('<li>') == len(lacking)
  assert 'Not here' in (tmp_path / 'report.md').read_text()


def test_figures_in_the_tables_are_those_of_the_results(written, simulated):
  """Table 6 against the runs, by another way."""
  table = pd.read_csv(written.parent / 'exp_table_6.csv')
  knn = simulated.tables.scores
  best = knn[(knn.strategy == 'knn') & knn.kind.isin(['baseline', 'full'])].sort_values('rank')
  row = table[(table.method == 'Full (kNN)') & (table.source == 'ours')].iloc[0]
  for task in ('svhn', 'dmlab', 'my <own> & other'):
    model = best[best.task == task].model.iloc[0]
    runs = simulated.trials
    runs = runs[(runs.task == task) & (runs.model == model) & (runs.split == 'test')].accuracy
    assert len(runs) == 30
    assert row[task] == pytest.approx(runs.median(), abs=1e-6)
  groups = pd.read_csv(written.parent / 'exp_table_5.csv').set_index('method').loc['Full (kNN)']
  assert groups['all'] == pytest.approx(row[['svhn', 'dtd', 'eurosat', 'dmlab']].mean(), abs=1e-5)
  assert groups['all low'] < groups['all'] < groups['all high']
  assert 'cars' not in table


def test_the_papers_rows_stand_beside_ours_over_the_same_tasks(simulated, tmp_path):
  paper = pd.DataFrame([('JFT', 'Full (kNN)', 70.0, 80.0, 50.0, 99.0)], columns=['upstream', 'method', 'svhn', 'dtd', 'dmlab', 'caltech101'])  # fmt: skip
  groups = {**_GROUPS, 'caltech101': 'natural'}
  page.write(dataclasses.replace(simulated, paper=paper, groups=groups), tmp_path)
  table = pd.read_csv(tmp_path / 'exp_table_2.csv')
  place = table.index[table.method == 'Full (kNN)'].tolist()
  assert table.source[place].tolist() == ['ours', '[EXP]']
  assert place[1] == place[0] + 1
  # Of svhn and dtd: we have no caltech101, so that 99 does not count.
  assert table.natural[place[1]] == pytest.approx(0.75)
  own = pd.read_csv(tmp_path / 'exp_published.csv')
  assert own.natural.tolist() == pytest.approx([0.83])


def test_the_overview_has_means_of_the_natural_six_and_medians_else(written, simulated):
  """Against the runs, by another way."""
  table = pd.read_csv(written.parent / 'table.csv').set_index('task')
  runs = simulated.trials[simulated.trials.split == 'test']
  for task, statistic in (('cars', 'mean'), ('svhn', 'median')):
    values = runs[(runs.task == task) & (runs.model == table.chosen[task])].accuracy
    assert values.mean() != pytest.approx(values.median(), abs=1e-5)
    assert table['chosen accuracy'][task] == pytest.approx(getattr(values, statistic)(), abs=2e-6)


def test_resampling_by_selection_is_said_and_wider_than_none(simulated, tmp_path):
  text = page.write(dataclasses.replace(simulated, cluster=True), tmp_path).read_text(
    encoding='utf-8'
  )
  assert 'bootstrap of selections, then of retrains within each' in text


def test_tasks_are_shown_with_their_versions_where_they_are_known(simulated, written, tmp_path):
  rows = [
    ('svhn', 'vtab:svhn', 'svhn_cropped/3.0.0', False, 10, 800, 200, 26032, 'accuracy', 'median'),
    ('cars', 'natural6:cars', 'cars/9', True, 196, 6494, 1650, 8041, 'mean_per_class', 'mean'),
    ('own', 'images:<x>', None, None, 3, 8, 2, 5, 'accuracy', 'median'),
  ]
  columns = [
    'task', 'data', 'version', 'drift', 'classes', 'fit', 'validation', 'test', 'metric', 'statistic',
  ]  # fmt: skip
  tasks = pd.DataFrame(rows, columns=columns)
  text = page.write(dataclasses.replace(simulated, tasks=tasks), tmp_path).read_text('utf-8')
  parser = _Tables()
  parser.feed(text)
  assert [row[3] for row in parser.found['tasks']] == ['–', 'not the papers’ version', '–']
  assert parser.found['tasks'][0][5:8] == ['800', '200', '26,032']
  assert 'Not the papers’ version: cars; their figures do not compare' in text
  marks = (tmp_path / 'report.md').read_text('utf-8')
  assert '### Tasks: data and versions' in marks
  assert re.search(r'\| cars .* cars/9 .* not the papers’ version ', marks)
  assert list(pd.read_csv(tmp_path / 'tasks.csv')) == columns
  assert marks.index('As published') < marks.index('Tasks: data and versions')
  assert 'Tasks: data and versions' not in written.read_text('utf-8')


class _Tables(html.parser.HTMLParser):
  """Rows of each table's body, as text of cells."""

  def __init__(self):
    super().__init__()
    self.found, self._name, self._cell, self._part = {}, None, None, ''

  def handle_starttag(self, tag, attrs):
    if tag == 'table':
      self._name = dict(attrs)['data-name']
      self.found[self._name] = []
    elif tag in ('tbody', 'tfoot', 'thead'):
      self._part = tag
    elif tag == 'tr' and self._part != 'thead':
      self.found[self._name].append([])
    elif tag == 'td':
      self.found[self._name][-1].append('')
      self._cell = True

  def handle_endtag(self, tag):
    if tag == 'td':
      self._cell = None

  def handle_data(self, data):
    if self._cell:
      self.found[self._name][-1][-1] += data


# Runs in the page: what went wrong from the first script on, and the rows after each click on a heading.
_WATCH = """<script>
window.failures = [];
window.addEventListener('error', (event) => window.failures.push(String(event.message)));
</script>"""
_PROBE = """<script>
const seen = {};
for (const table of document.querySelectorAll('table')) {
  const heads = [...table.tHead.rows[0].cells];
  const texts = (column) => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.v ?? row.cells[column].textContent);
  seen[table.dataset.name] = heads.map((head, column) => {
    head.click();
    const first = texts(column), order = head.getAttribute('aria-sort');
    head.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter' }));
    return { numeric: head.classList.contains('num'), order, first, again: texts(column), foot: table.tFoot ? table.tFoot.rows.length : 0 };
  });
}
document.getElementById('paper').click();
const hidden = [...document.querySelectorAll('tr.paper')].every((row) => getComputedStyle(row).display === 'none');
const broken = [...document.images].filter((image) => !image.naturalWidth).length;
const marks = new Set([...document.querySelectorAll('td[class^="g-"]')].map((cell) => getComputedStyle(cell).color));
const wide = document.documentElement.scrollWidth > window.innerWidth;
document.body.innerHTML = '';
const out = document.createElement('pre');
out.id = 'probe';
out.textContent = JSON.stringify({ failures: window.failures, seen, hidden, broken, colours: [...marks], wide });
document.body.append(out);
</script>"""


def _open(path: pathlib.Path, folder: pathlib.Path) -> dict:
  browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
  if not browser:
    pytest.skip(f'no browser: none of {", ".join(_BROWSERS)} is installed')
  text = path.read_text(encoding='utf-8')
  watched = text.replace('<head>', f'<head>{_WATCH}', 1).replace('</body>', f'{_PROBE}</body>')
  copy = folder / 'probe.html'
  copy.write_text(watched, encoding='utf-8')
  command = [
    browser, '--headless', '--no-sandbox', '--disable-gpu', '--window-size=1200,900', f'--user-data-dir={folder}/profile',
    '--host-resolver-rules=MAP * ~NOTFOUND', '--virtual-time-budget=10000', '--dump-dom', copy.as_uri(),
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
  found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
  assert found, done.stderr[-2000:]
  return json.loads(html.unescape(found[1]))


def _check_sorting(column: dict) -> None:
  for values, order in ((column['first'], column['order']), (column['again'], None)):
    # Missing values last, whichever way.
    known = [value for value in values if value]
    if column['numeric']:
      assert values == known + [''] * (len(values) - len(known))
      numbers = [float(value) for value in known]
      ascending = order == 'ascending' if order else column['order'] == 'descending'
      assert numbers == sorted(numbers, reverse=not ascending)
  assert sorted(column['first']) == sorted(column['again'])


def test_the_page_in_a_browser(written, tmp_path):
  found = _open(written, tmp_path)
  assert found['failures'] == []
  assert found['broken'] == 0
  assert found['hidden']
  assert not found['wide']
  # A colour for each of the four groups.
  assert len(found['colours']) == 4
  tables = {path.stem for path in written.parent.glob('exp_*.csv')} | {'table', 'ranking'}
  assert set(found['seen']) == tables
  for name, columns in found['seen'].items():
    rows = pd.read_csv(written.parent / f'{name}.csv')
    for column in columns:
      assert len(column['first']) + column['foot'] == len(rows), name
      _check_sorting(column)
  assert sum(column['numeric'] for columns in found['seen'].values() for column in columns) > 40
  assert found['seen']['table'][0]['order'] == 'ascending'
  assert found['seen']['table'][1]['order'] == 'descending'


def test_a_failing_script_would_be_seen(written, tmp_path):
  text = written.read_text(encoding='utf-8').replace(
    "'use strict';", "'use strict'; failsOnPurpose();", 1
  )
  broken = tmp_path / 'broken.html'
  broken.write_text(text, encoding='utf-8')
  assert 'failsOnPurpose is not defined' in _open(broken, tmp_path)['failures'][0]


def test_an_all_but_empty_page_in_a_browser(tmp_path):
  found = _open(page.write(_tiny(), tmp_path), tmp_path)
  assert found['failures'] == []
  assert set(found['seen']) == {'table', 'ranking', 'exp_table_4', 'exp_published'}


def test_every_row_is_in_the_html(written):
  parser = _Tables()
  parser.feed(written.read_text(encoding='utf-8'))
  assert 'my <own> & other' in ' '.join(row[0] for row in parser.found['table'])
  for name, rows in parser.found.items():
    table = pd.read_csv(written.parent / f'{name}.csv')
    assert len(rows) == len(table), name
  six = pd.read_csv(written.parent / 'exp_table_8.csv')
  method = parser.found['exp_table_8'][0]
  assert method[-1] == (
    f'{100 * six[summary.NATURAL_SIX][0]:.1f} [{100 * six["natural six low"][0]:.1f}, '
    f'{100 * six["natural six high"][0]:.1f}]'
  )
