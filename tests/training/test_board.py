"""The events that TensorBoard reads back, and what happens when they cannot be written."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util import tensor_util

from experts.training import board as board_lib


def _read(path) -> event_accumulator.EventAccumulator:
  everything = dict.fromkeys((event_accumulator.TENSORS, event_accumulator.SCALARS), 0)
  events = event_accumulator.EventAccumulator(str(path), size_guidance=everything)
  events.Reload()
  return events


def test_scalars_of_each_run_read_back(tmp_path):
  with board_lib.Board(tmp_path) as board:
    for step in range(3):
      board.scalars('experts/greek', step, {'loss': step + 0.5})
      board.scalars('experts/arrow', step, {'loss': 10 * step, 'rate': np.float32(0.25)})

  greek, arrow = _read(tmp_path / 'experts/greek'), _read(tmp_path / 'experts/arrow')
  assert [(e.step, float(_value(e))) for e in greek.Tensors('loss')] == [
    (0, 0.5),
    (1, 1.5),
    (2, 2.5),
  ]
  assert [float(_value(e)) for e in arrow.Tensors('loss')] == [0, 10, 20]
  assert float(_value(arrow.Tensors('rate')[0])) == 0.25


def test_text_and_histogram_read_back(tmp_path):
  with board_lib.Board(tmp_path) as board:
    board.text('select', 0, {'ranking': '| model | kNN |\n|---|---|\n| greek | 67.0 |'})
    values = np.array([0.1, 0.2, 0.9])
    board.histograms('select', 0, {'knn': values})
    values[:] = 0  # the board keeps what it was given

  events = _read(tmp_path / 'select')
  assert '| greek | 67.0 |' in _value(events.Tensors('ranking')[0]).item().decode()
  buckets = _value(events.Tensors('knn')[0])
  assert buckets[:, 2].sum() == 3
  np.testing.assert_allclose((buckets[0, 0], buckets[-1, 1]), (0.1, 0.9))


def test_images_form_one_grid(tmp_path):
  images = np.stack([np.full((4, 6, 3), 50 * i, np.uint8) for i in range(1, 4)])
  with board_lib.Board(tmp_path) as board:
    board.images('train', 7, {'input': images})

  event = _read(tmp_path / 'train').Tensors('input')[0]
  assert event.step == 7
  assert len(event.tensor_proto.string_val) == 3  # width, height and a single image
  encoded = np.frombuffer(event.tensor_proto.string_val[2], np.uint8)
  grid = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
  expected = np.zeros((9, 13, 3), np.uint8)
  expected[:4, :6], expected[:4, 7:], expected[5:, :6] = 50, 100, 150
  np.testing.assert_array_equal(grid, expected)


@pytest.mark.parametrize(
  'images',
  [np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)],
)
def test_images_of_another_form_are_refused(tmp_path, images):
  with (
    board_lib.Board(tmp_path) as board,
    pytest.raises(ValueError, match=r"'input' must be uint8"),
  ):
    board.images('train', 0, {'input': images})


def test_hparams_have_one_row_a_trial(tmp_path):
  trials = {
    'a': {'lr': 0.1, 'steps': 100, 'mixup': None},
    'b': {'lr': np.float32(0.5), 'steps': 20, 'mixup': 0.1},
  }
  with board_lib.Board(tmp_path) as board:
    for name, values in trials.items():
      board.hparams(f'sweep/{name}', values, {'accuracy': 0.75})

  rows = {}
  for name in trials:
    events = _read(tmp_path / 'sweep' / name)
    content = events.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = hparams_metadata.parse_session_start_info_plugin_data(content).hparams
    rows[name] = {key: hparams[key].number_value or hparams[key].string_value for key in hparams}
    assert float(_value(events.Tensors('accuracy')[0])) == 0.75
  assert rows == {
    'a': {'lr': 0.1, 'steps': 100, 'mixup': 'None'},
    'b': {'lr': 0.5, 'steps': 20, 'mixup': 0.1},
  }


def test_flush_makes_events_readable_before_the_end(tmp_path):
  with board_lib.Board(tmp_path) as board:
    board.scalars('run', 1, {'loss': 2})
    board.flush()
    assert [e.step for e in _read(tmp_path / 'run').Tensors('loss')] == [1]
    board.scalars('run', 2, {'loss': 1})
  assert [e.step for e in _read(tmp_path / 'run').Tensors('loss')] == [1, 2]


def test_disabled_board_writes_nothing(tmp_path):
  with board_lib.Board(tmp_path / 'log', enabled=False) as board:
    board.scalars('run', 0, {'loss': 1})
    board.flush()
  assert not (tmp_path / 'log').exists()


def test_failed_write_is_an_error_of_close(tmp_path):
  (tmp_path / 'run').write_text('a file where the directory of the run should be')
  board = board_lib.Board(tmp_path)
  board.scalars('run', 0, {'loss': 1})
  with pytest.raises(OSError, match=f'cannot write TensorBoard events under {tmp_path}'):
    board.close()
  board.close()


def test_failed_write_is_an_error_of_the_next_call(tmp_path):
  (tmp_path / 'run').write_text('in the way')
  board = board_lib.Board(tmp_path)
  board.scalars('run', 0, {'loss': 1})
  with pytest.raises(OSError, match='cannot write TensorBoard events'):
    board.flush()
  board.scalars('other', 0, {'loss': 3})
  board.close()
  assert float(_value(_read(tmp_path / 'other').Tensors('loss')[0])) == 3


def test_failed_write_does_not_replace_the_error_of_the_block(tmp_path):
  (tmp_path / 'run').write_text('in the way')

  def block():
    with board_lib.Board(tmp_path) as board:
      board.scalars('run', 0, {'loss': 1})
      raise KeyError('cause')

  with pytest.raises(KeyError, match='cause'):
    block()


def test_unusable_directory_is_an_error_at_once(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match='file'):
    board_lib.Board(tmp_path / 'file')


def test_tensorflow_is_not_imported_before_the_first_write(tmp_path):
  program = (
    'import sys; from experts.training import board\n'
    f'with board.Board({str(tmp_path)!r}) as b: b.flush()\n'
    "assert 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, '-c', program], check=True)


def _value(event) -> np.ndarray:
  return tensor_util.make_ndarray(event.tensor_proto)
