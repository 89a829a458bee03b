"""The report on results that are there already, of this project or of another.

python main.py --config=configs/report.py --workdir=runs/report --config.results=runs/quickstart

A few seconds on any machine. The folder holds scores.csv (task, model, kind, strategy, score and, if known, rank, low, high, p_value)
and, if there are any, trials.csv (task, model, split, accuracy and settings), tasks.csv, costs.csv, slices.csv and pool.json. Expect
report/index.html, every part of the papers that the results hold the data for, and for each missing one the run that would
give it. Another strategy than kNN in the overview: --config.strategy=linear. Published figures to stand beside ours:
--config.paper=FILE.csv (upstream, method, a column of percentages for each task). Intervals that resample selections, then
retrains within each: --config.report.cluster=True.
"""

from configs import common


def get_config():
  config = common.get_config()
  config.phases = ('report',)
  return config
