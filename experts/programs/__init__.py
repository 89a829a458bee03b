"""The compiled programs of a config's phases, as shapes on given devices: what a dry run compiles.

Nothing is trained and, where the config says how large its data is, nothing is read.
"""

from collections.abc import Sequence

import jax

from experts.programs import pools, upstream
from experts.programs.program import Program
from experts.runs.description import Config


def programs(config: Config, devices: Sequence[jax.Device], limit: int) -> list[Program]:
  """The programs that the config's phases would run on these devices, in their order.

  Args:
    config: a valid one.
    devices: all of the job's; those of a topology serve, too.
    limit: bytes of memory of one of them.

  Raises:
    ValueError: a batch that does not divide, or a population that does not fit and may not loop.
    FileNotFoundError: data that is not there and whose size the config does not say.
  """
  of_phase = {
    'upstream': upstream.of_upstream,
    'experts': upstream.of_experts,
    'domain_predictor': upstream.of_domain_predictor,
    'select': pools.of_select,
    'transfer': pools.of_transfer,
    'dat': upstream.of_dat,
  }
  found = []
  for phase in config.phases:
    if phase in of_phase:
      found += of_phase[phase](config, devices, limit)
  return found
