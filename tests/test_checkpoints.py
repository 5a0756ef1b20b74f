"""Checkpoints: what was saved comes back bit for bit, on any devices, after any death; and only to
the run it belongs to."""
import json
import math
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from refusals import refused

from jaxdreamer import checkpoints, processes, workdirs
from jaxdreamer.types import TrainState

ROOT = pathlib.Path(__file__).resolve().parents[1]
OPTIONS = {'prompt': 'a red cube', 'seed': 0, 'steps': 100,
           'optim': {'lr': .1, 'groups': ((('scene/.*', .03),))},
           'mesh': {'data': 0}, 'keep': 2}


def make_state(value, *, devices=(1, 1)):
  mesh = jax.make_mesh(devices, ('data', 'model'), axis_types=(AxisType.Auto,) * 2,
                       devices=jax.devices()[:math.prod(devices)])
  params = {'scene': {'grid': np.full((64, 64), value, np.float32),
                      'kernel': value + np.arange(24, dtype=np.float32).reshape(8, 3),
                      'half': np.full(5, value, jnp.bfloat16)}, 'est': ()}
  moments = optax.ScaleByAdamState(np.int32(value), params, jax.tree.map(np.zeros_like, params))
  state = TrainState(np.int32(value), params, (moments, optax.EmptyState()), jax.random.key(7))
  return processes.place(state, mesh)


def same(a, b):
  bits = lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
                              else x)
  assert jax.tree.structure(a) == jax.tree.structure(b)
  return all(bits(x).tobytes() == bits(y).tobytes() and x.dtype == y.dtype
             for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def save(folder, *steps, keep=9, devices=(1, 1)):
  with checkpoints.manager(folder, keep=keep) as saved:
    for step in steps:
      checkpoints.save(saved, step, make_state(step, devices=devices),
                       {'steps': 3, 'loss': .1 + step})


def restore(folder, like):
  said = []
  with checkpoints.manager(folder, keep=9) as saved:
    return checkpoints.restore(saved, like, warn=said.append), said


@pytest.fixture
def folder(tmp_path):
  workdirs.claim(tmp_path, OPTIONS)
  return tmp_path


@pytest.mark.parametrize(('saved', 'devices'), [
  ((1, 1), (1, 1)), ((1, 1), (2, 1)), ((1, 1), (4, 1)), ((1, 1), (1, 4)), ((2, 2), (1, 1)),
  ((1, 4), (2, 2)), ((4, 1), (1, 2))])
def test_a_state_comes_back_bit_for_bit_on_any_number_of_devices(folder, saved, devices):
  """Of devices that share arrays too."""
  save(folder, 5, devices=saved)
  like = make_state(0, devices=devices)
  (state, running), said = restore(folder, like)
  assert same(state, make_state(5)) and running == {'steps': 3, 'loss': 5.1} and not said
  assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(state),
                                                      jax.tree.leaves(like)))
  assert jnp.array_equal(jax.random.normal(state.key, (3,)),
                         jax.random.normal(jax.random.key(7), (3,)))


def test_nothing_saved_restores_to_nothing(folder):
  assert restore(folder, make_state(0)) == (None, [])


def test_donating_a_state_right_after_its_save_changes_nothing_on_disk(folder):
  advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1 if jnp.issubdtype(x.dtype, jnp.number)
                                           else x, s), donate_argnums=0)
  state = make_state(5)
  with checkpoints.manager(folder, keep=9) as saved:
    checkpoints.save(saved, 5, state, {})
    for _ in range(20):
      state = advance(state)
  assert same(restore(folder, make_state(0))[0][0], make_state(5))


def test_the_newest_are_kept(folder):
  save(folder, 1, 2, 3, 4, keep=2)
  assert workdirs.finished_steps(folder) == [3, 4]


def damage(folder, step):
  """Empties the list of arrays. (A torn array is a process's own business below: Orbax leaves reads
  behind.)"""
  (folder / 'checkpoints' / f'{step:06}' / 'state' / '_METADATA').write_text('')


def test_a_damaged_step_is_passed_over_aloud_and_can_be_saved_again(folder):
  save(folder, 1, 2)
  damage(folder, 2)
  found, said = restore(folder, make_state(0))
  assert same(found[0], make_state(1)) and len(said) == 1 and 'checkpoint 2 ' in said[0]
  save(folder, 2)
  assert same(restore(folder, make_state(0))[0][0], make_state(2))


def test_where_no_step_can_be_read_nothing_is_removed_and_the_error_says_so(folder):
  save(folder, 1, 2)
  damage(folder, 1)
  damage(folder, 2)
  with refused('no checkpoint in .*--workdir'):
    restore(folder, make_state(0))
  assert workdirs.finished_steps(folder) == [1, 2]


def test_a_state_of_another_structure_is_refused(folder):
  save(folder, 1)
  like = make_state(0)
  with pytest.raises(ValueError, match='fits this run'):
    restore(folder, like.replace(params=like.params | {'more': like.step}))


TEARER = '''
import pathlib, sys
sys.path[:0] = ['tests', '.']
import test_checkpoints as t
folder = pathlib.Path(sys.argv[1])
t.workdirs.claim(folder, t.OPTIONS)
t.save(folder, 1, 2)
files = [path for path in (folder / 'checkpoints' / '000002').rglob('*') if path.is_file()]
largest = max(files, key=lambda path: path.stat().st_size)
largest.write_bytes(largest.read_bytes()[:20])
(state, running), said = t.restore(folder, t.make_state(0))
assert t.same(state, t.make_state(1)) and 'checkpoint 2 ' in said[0], said
'''


@pytest.mark.slow
def test_a_torn_array_is_passed_over(tmp_path):
  done = subprocess.run([sys.executable, '-c', TEARER, tmp_path], cwd=ROOT, capture_output=True,
                        text=True)
  assert done.returncode == 0, done.stderr
  assert workdirs.finished_steps(tmp_path) == [1]


SAVER = '''
import pathlib, sys
sys.path[:0] = ['tests', '.']
import test_checkpoints as t
from jaxdreamer import checkpoints, workdirs
folder = pathlib.Path(sys.argv[1])
workdirs.claim(folder, t.OPTIONS)
with checkpoints.manager(folder, keep=3) as saved:
  for step in range(1, 10_000):
    checkpoints.save(saved, step, t.make_state(step), {'step': step})
    print(step, flush=True)
'''


@pytest.mark.slow
def test_a_run_killed_while_it_saves_leaves_the_newest_finished_step_whole(tmp_path):
  for saves in (4, 7):
    process = subprocess.Popen([sys.executable, '-c', SAVER, tmp_path / str(saves)], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
    for _ in range(saves):
      process.stdout.readline()
    process.send_signal(signal.SIGKILL)            # a save runs in the background now
    process.communicate()
    (state, running), said = restore(tmp_path / str(saves), make_state(0))
    assert same(state, make_state(running['step'])) and running['step'] >= saves - 2 and not said


def test_only_options_that_decide_the_numbers_make_another_run(folder):
  save(folder, 1)
  workdirs.claim(folder, OPTIONS | {'steps': 900, 'keep': 5, 'mesh': {'data': 4}})
  assert workdirs.read_options(folder)['steps'] == 900
  assert workdirs.fingerprint(OPTIONS) == workdirs.fingerprint(OPTIONS | {'steps': 900})
  with refused('optim.lr is 0.1 there, 0.2 here; seed is 0 there, 1 here.*--workdir'):
    workdirs.claim(folder, OPTIONS | {'seed': 1, 'optim': OPTIONS['optim'] | {'lr': .2}})
  assert workdirs.read_options(folder)['seed'] == 0


def test_a_workdir_without_a_finished_step_may_be_claimed_anew(folder):
  workdirs.claim(folder, OPTIONS | {'seed': 1})
  assert workdirs.read_options(folder)['seed'] == 1


@pytest.mark.parametrize('path', ['file', 'file/below', 'gs://bucket/run', '/proc/none'])
def test_a_workdir_that_cannot_be_written_is_refused_in_one_line(tmp_path, path):
  (tmp_path / 'file').write_text('')
  workdir = pathlib.Path(path) if ':' in path else tmp_path / path
  with refused('--workdir'):
    workdirs.claim(workdir, OPTIONS)


HOLDER = '''
import fcntl, sys
file = open(sys.argv[1], 'a+')
fcntl.flock(file, fcntl.LOCK_EX)
file.write('process 77 on elsewhere (since 2026-01-02 03:04:05)')
file.flush()
print('held', flush=True)
sys.stdin.read()
'''


def test_a_workdir_has_one_writer_until_that_process_ends_however_it_ends(folder):
  holder = subprocess.Popen([sys.executable, '-c', HOLDER, folder / 'lock'], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE)
  assert holder.stdout.readline() == b'held\n'
  for hold in (lambda: workdirs.alone(folder, new=True), lambda: workdirs.alone(folder),
               lambda: workdirs.writing(folder / 'generated', folder)):
    with refused('process 77 on elsewhere .since 2026-01-02 03:04:05. .*--workdir'):
      hold().__enter__()
  with workdirs.writing(folder.parent / 'elsewhere', folder):  # reads alone
    pass
  holder.send_signal(signal.SIGKILL)
  holder.communicate()
  with workdirs.alone(folder):
    assert f'process {os.getpid()} on ' in (folder / 'lock').read_text()
    with pytest.raises(ValueError, match=f'process {os.getpid()} on '):
      workdirs.alone(folder).__enter__()
  with workdirs.alone(folder):
    pass


def test_what_only_reads_a_run_makes_no_workdir_and_takes_nothing_of_a_save_that_goes_on(
    tmp_path, folder):
  with pytest.raises(ValueError, match='holds no run'):
    workdirs.alone(tmp_path / 'none').__enter__()
  assert not (tmp_path / 'none').exists()
  save(folder, 1)
  unfinished = folder / 'checkpoints' / '000002.orbax-checkpoint-tmp'
  unfinished.mkdir()
  with checkpoints.reader(folder) as saved:
    assert same(checkpoints.restore(saved, make_state(0))[0], make_state(1))
  assert unfinished.exists()


def test_a_workdir_of_another_format_is_refused(folder):
  save(folder, 1)
  (folder / 'run.json').write_text(json.dumps({'format': workdirs.FORMAT + 1}))
  with pytest.raises(ValueError, match=f'format {workdirs.FORMAT + 1}.*--workdir'):
    workdirs.claim(folder, OPTIONS)


def test_a_folder_without_a_run_is_named(tmp_path):
  with pytest.raises(ValueError, match='holds no run'):
    workdirs.read_options(tmp_path)


def test_config_json_is_never_half_written(folder, monkeypatch):
  monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(
      OSError(28, 'No space left on device', 'config.json')))
  with pytest.raises(ValueError, match='No space left'):
    workdirs.claim(folder, OPTIONS | {'seed': 1})
  assert workdirs.read_options(folder)['seed'] == 0
