"""Runs the phases of a config: python main.py --config=configs/quickstart.py --workdir=runs/quickstart

All that it says is kept in the workdir's log.txt; --debug shows tracebacks and what libraries say, too.
"""

# First, since it quiets the libraries that the others load.
from experts import entry  # isort: skip

from absl import app as absl_app
from absl import flags, logging
from ml_collections import config_flags

from experts import app

_CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='A file of configs/; its fields are overridden by --config.FIELD=VALUE.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of checkpoints, results and TensorBoard.')
flags.mark_flags_as_required(['config', 'workdir'])


def main(argv):
  del argv
  logging.set_verbosity(logging.DEBUG if entry.debug() else logging.INFO)
  app.main(_CONFIG.value, _WORKDIR.value)


if __name__ == '__main__':
  with entry.guard():
    absl_app.run(main, flags_parser=app.parse_flags)
