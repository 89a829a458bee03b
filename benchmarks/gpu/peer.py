"""PyTorch in a process of its own: it does what it is told, and its memory and libraries are apart from JAX's."""

import contextlib
import json
import subprocess
import sys
from typing import Any


class Peer:
  """`benchmarks.gpu.torch_side`, told by lines of JSON.

  Requests may be sent ahead: what PyTorch compiles takes no time from the device.
  """

  def __init__(self):
    command = [sys.executable, '-m', 'benchmarks.gpu.torch_side']
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      bufsize=1,
    )

  def ask(self, **request: Any) -> None:
    """Sends a request; its reply is the next one that is read."""
    # One that has ended says so when it is asked for the reply.
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps(request) + '\n')

  def reply(self) -> dict[str, Any]:
    """Waits for the reply to the oldest request without one.

    Raises:
      RuntimeError: PyTorch failed; one line.
    """
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f'PyTorch has ended with {self._process.wait()}: see the log')
    found = json.loads(line)
    if 'error' in found:
      raise RuntimeError(found['error'])
    return found

  def seconds(self, name: str) -> float:
    """Of one run of a form that has been built."""
    self.ask(do='run', name=name)
    return self.reply()['seconds']

  def end(self) -> None:
    """Ends the process, which frees its memory."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    try:
      self._process.wait(30)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()

  def __enter__(self) -> 'Peer':
    return self

  def __exit__(self, *error) -> None:
    self.end()
