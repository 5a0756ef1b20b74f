"""Metrics: exact means, files that a resumed run continues as if unbroken, and honest clocks."""
import io
import json
import pathlib
import resource
import sys
import time

import numpy as np
import pytest

from jaxdreamer import metrics


def test_a_row_is_the_mean_over_steps_however_the_calls_fell(tmp_path):
  values = np.random.default_rng(0).normal(size=12)
  running = {}
  for part in np.split(values, [3, 4, 9]):
    running = metrics.add(running, {'loss': part.mean(), 'finite': 1.}, len(part))
  row = metrics.means(running)
  assert row['loss'] == pytest.approx(values.mean(), abs=1e-15) and row['skipped'] == 0


def test_skipped_steps_are_counted_and_left_out_of_the_means():
  values, finite = np.arange(1., 13.), np.arange(12) % 3 > 0
  running = {}
  for part in np.split(np.arange(12), [1, 8]):
    # a call's means, as float32 has them, in which a skipped step is zeros
    shares = {'loss': np.mean(values[part] * finite[part]),
              'finite': float(np.mean(finite[part], dtype=np.float32))}
    running = metrics.add(running, shares, len(part))
  row = metrics.means(running)
  assert row == {'skipped': 4, 'loss': pytest.approx(values[finite].mean(), rel=1e-6)}
  assert metrics.means(metrics.add({}, {'loss': 0., 'finite': 0.}, 3)) == {'skipped': 3}


def test_running_sums_survive_json_exactly():
  whole = broken = {}
  for value in np.random.default_rng(0).normal(size=20):
    whole = metrics.add(whole, {'loss': value}, 3)
    broken = metrics.add(json.loads(json.dumps(broken)), {'loss': value}, 3)
  assert whole == broken


def test_a_metric_that_appears_in_the_middle_of_a_row_is_refused():
  with pytest.raises(ValueError, match='metrics changed'):
    metrics.add(metrics.add({}, {'loss': 1.}, 1), {'loss': 1., 'new': 1.}, 1)


def write(path, steps, *, step):
  rows = metrics.Rows(path, step=step)
  for k in steps:
    rows.write(k, {'loss': .1 * k})
  rows.close()


@pytest.mark.parametrize('cut', [0, 1, 17])
def test_a_resumed_file_equals_the_unbroken_one(tmp_path, cut):
  whole, broken = tmp_path / 'whole.jsonl', tmp_path / 'broken.jsonl'
  write(whole, range(10, 70, 10), step=0)
  write(broken, range(10, 60, 10), step=0)
  broken.write_bytes(broken.read_bytes()[:len(broken.read_bytes()) - cut])  # killed within a line
  write(broken, range(40, 70, 10), step=35)
  assert broken.read_bytes() == whole.read_bytes()


def test_a_new_run_empties_the_file(tmp_path):
  path = tmp_path / 'rows.jsonl'
  write(path, [1, 2], step=0)
  write(path, [], step=0)
  assert path.read_text() == ''


def test_the_clock_adds_up():
  clock = metrics.Clock()
  for use in ('steps', 'previews', 'steps'):
    with clock(use):
      time.sleep(.02)
  with pytest.raises(KeyError), clock('compile'):
    raise KeyError
  assert clock.seconds['steps'] >= .04 > 0. < clock.seconds[
      'previews'] and 'compile' in clock.seconds
  assert sum(clock.seconds.values()) <= clock.total()
  assert 'steps 0.' in clock.summary() and 'other 0.' in clock.summary()


@pytest.mark.parametrize('seconds, text', [(0.4, '0:00'), (75.2, '1:15'),
                                           (3. * 3600. + 61., '3:01:01')])
def test_spans_read_as_clocks(seconds, text):
  assert metrics.span(seconds) == text


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize('stream', [io.StringIO, Terminal])
def test_the_progress_line_tells_step_rate_time_left_and_memory(stream, monkeypatch):
  now = iter([100., 110., 110.])
  monkeypatch.setattr(metrics.time, 'monotonic', lambda: next(now, 110.))
  out = stream()
  progress = metrics.Progress(steps=200, stream=out)
  progress.start(40)
  line = progress.line(60, {'loss': .123456})
  assert line.startswith('step 60/200  loss 0.1235  2 steps/s  1:10 left') and line.endswith('GiB')
  progress.row(60, {'loss': .1})
  progress.say('a [b]message[/b]')
  progress.close()
  assert 'a [b]message[/b]\n' in out.getvalue().replace('\r', '')


def test_a_pause_is_forgotten_by_the_time_left(monkeypatch):
  clock = [0.]
  monkeypatch.setattr(metrics.time, 'monotonic', lambda: clock[0])
  progress = metrics.Progress(steps=1000, stream=io.StringIO())
  progress.start(0)
  lines = []
  for row in range(1, 2 * metrics.RECENT + 1):
    clock[0] += 3600. if row == 3 else 5.
    lines.append(progress.line(10 * row, {}))
  assert '2 steps/s  8:10 left' in lines[1] and '32:25:23 left' in lines[
      2] and 'steps/s  5:00 left' in lines[-1]


@pytest.mark.skipif(not pathlib.Path('/proc/self/status').exists(),
                    reason='only Linux tells what a process holds')
def test_memory_counts_what_the_process_holds_and_remembers_the_most():
  held, most = metrics.process_memory()
  large = np.ones(2 ** 25)
  assert metrics.process_memory()[
      0] - held > .9 * large.nbytes and metrics.memory() >= held + .9 * large.nbytes
  del large
  assert metrics.memory() >= max(most, held + 2 ** 27)


@pytest.mark.skipif(not pathlib.Path('/proc/meminfo').exists(),
                    reason='only Linux tells what is free')
def test_free_memory_is_the_least_of_what_the_machine_its_group_and_the_process_may_take(
    monkeypatch):
  # what is free in truth changes between two looks, as others run
  assert 2 ** 21 < metrics.machine_memory() and 2 ** 20 < metrics.free_memory()
  monkeypatch.setattr(metrics, 'machine_memory', lambda: 2 ** 20 + 1)
  assert metrics.free_memory() <= 2 ** 20 + 1
  monkeypatch.setattr(metrics, 'machine_memory', lambda: 2 ** 40)
  monkeypatch.setattr(metrics, 'group_memory', lambda: 2 ** 21)
  assert metrics.free_memory() == 2 ** 21
  held = 1024 * metrics.table_of('/proc/self/status')['VmSize']
  monkeypatch.setattr(metrics.resource, 'getrlimit',
                      lambda _: (held + 2 ** 20, resource.RLIM_INFINITY))
  assert metrics.free_memory() < 2 ** 21
  class Full:
    def memory_stats(self):
      return {'bytes_limit': 100, 'bytes_in_use': 70}
  monkeypatch.setattr(metrics.jax, 'local_devices', lambda: [Full()])
  assert metrics.free_memory() == 30


def test_tensorboard_without_its_package_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  with pytest.raises(ValueError, match=r'pip install .jaxdreamer\[tensorboard\]'):
    metrics.TensorBoard(tmp_path, step=0)
