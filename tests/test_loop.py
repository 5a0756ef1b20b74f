"""The loop: an interrupted run equals an unbroken one, and whatever goes wrong is said in one
line."""
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from ml_collections import ConfigDict
from refusals import refused

from jaxdreamer import (
  build,
  checkpoints,
  finishing,
  guard,
  loop,
  metrics,
  parallel,
  seeds,
  workdirs,
)
from jaxdreamer.objects import Model, Object
from jaxdreamer.signals import SIGNALS, stop_signals
from jaxdreamer.training import Training
from jaxdreamer.types import NoiseSchedule, Prior, Rendering, TrainState

ROOT = pathlib.Path(__file__).resolve().parents[1]
STRIDE = 2


def make_config(**changes):
  config = ConfigDict({
    'prompt': 'a quadratic', 'corpus': {'path': ''}, 'scene': {'name': 'x'}, 'seed': 0, 'start': '',
    'steps': 12,
    'steps_per_call': STRIDE, 'log_every': 4,
    'preview_every': 0, 'checkpoint_every': 6, 'keep': 2, 'max_minutes': 0., 'profile_steps': '',
    'tensorboard': False, 'lr': .1, 'poison': (99, 99), 'cured': 0,
    'guard': {'skips': 2, 'rollbacks': 2}, 'mesh': {'map': 'shard_map', 'data': 1},
    'eval': {'mesh_resolution': 16, 'faces': 0, 'texture': 0}})
  config.update(changes)
  return config.lock()


def make_training(config, mesh, *, saved=()):
  """x falls down a noisy parabola by Adam. Its gradient is nan from step config.poison[0] to [1],
  and if that can be `cured`, only with the noise that the run begins with; if 2 are cured, a step
  earlier with what it goes back with first, too."""
  tx, begun = optax.adam(config.lr), seeds.key(config.seed)
  of = lambda state, key: jnp.all(jax.random.key_data(state.key) == jax.random.key_data(key))

  def init(key):
    params = {'scene': {'x': jnp.zeros(3)}, 'est': ()}
    return TrainState(jnp.int32(0), params, tx.init(params), key)

  def ill(state):
    first, last = config.poison
    second = of(state, jax.random.fold_in(begun, guard.AGAIN + 1)) & (config.cured == 2)
    fresh = ~(of(state, begun) | second)
    return (first - second <= state.step) & (state.step <= last) & ~((config.cured > 0) & fresh)

  def one(state, prior, text, ids):
    noise = jax.random.normal(jax.random.fold_in(state.key, state.step), (3,))
    x = state.params['scene']['x']
    grads = {'scene': {'x': x - prior.weights + noise + jnp.where(ill(state), jnp.nan, 0.)},
             'est': ()}
    updates, opt = tx.update(grads, state.opt, state.params)
    info = {'loss': jnp.sum(grads['scene']['x'] ** 2), 'noise': noise[0]}
    return state.replace(step=state.step + 1, params=optax.apply_updates(state.params, updates),
                         opt=opt), info

  several = parallel.scan_steps(guard.guarded(one), config.steps_per_call)
  advance = lambda state, prior, text: several(state, prior, text, None)
  look = lambda state, prior, text: (state, guard.Seen(
    *[{}] * 9, gradient={'x': 1. - ill(state)}, updated=0.))

  identity = lambda t: t
  nothing = lambda *_: jnp.zeros(())
  prior = Prior(jnp.ones(3), NoiseSchedule(identity, identity), 4, (4, 4, 3), nothing, nothing,
                nothing, nothing)
  text = prior.embed(config.prompt)
  return Training(jax.jit(init), ((0, jax.jit(advance, donate_argnums=0)),), config.steps_per_call,
                  prior, lambda step: text, parts=None, looks=((0, look),))


def make_model(config, embed, phrases):
  """Objects that are as bright as their camera's azimuth has it."""
  def render(camera, background):
    flat = jnp.ones((4, 4)) * jnp.cos(camera.azimuth)
    rgb = jnp.broadcast_to(background, (4, 4, 3)) * jnp.abs(flat)[..., None]
    return Rendering(rgb, flat, flat, rgb, flat, flat, flat)
  object = Object(jax.jit(render), lambda xyz: jnp.sum(xyz, -1), lambda xyz: xyz, 1., 4)
  return Model(phrases, embed, lambda params, prompt: object)


def make_mesh(*, devices=1):
  return jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,),
                       devices=jax.devices()[:devices])


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  monkeypatch.setattr(build, 'training', make_training)
  monkeypatch.setattr(build, 'model', make_model)
  monkeypatch.setattr(finishing, 'finish', lambda *_, **__: {})


def run(workdir, *, devices=1, **changes):
  return loop.run(make_config(**changes), workdir, make_mesh(devices=devices))


def last_state(workdir):
  like = loop.place(make_training(make_config(), None).init(jax.random.key(0)), make_mesh())
  with checkpoints.manager(workdir, keep=2) as saved:
    return checkpoints.restore(saved, like)


def bits(workdir):
  state, running = last_state(workdir)
  return [np.asarray(x).tobytes()
          for x in jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))], running


def same_run(a, b):
  return bits(a) == bits(b) and (a / 'metrics.jsonl').read_bytes() == (
      b / 'metrics.jsonl').read_bytes()


@pytest.fixture
def unbroken(tmp_path):
  assert run(tmp_path / 'unbroken') == loop.Outcome(12, 'done', {})
  return tmp_path / 'unbroken'


def rows(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_a_run_that_goes_on_is_built_for_the_steps_it_has_checkpoints_at(tmp_path, monkeypatch):
  begun = []
  def build_one(config, mesh, *, saved):
    begun.append(saved)
    return make_training(config, mesh)
  monkeypatch.setattr(build, 'training', build_one)
  run(tmp_path / 'a', steps=8)
  run(tmp_path / 'a')
  assert begun == [[], [6, 8]]


def test_metrics_are_the_means_since_the_row_before_and_say_nothing_of_the_clock(unbroken):
  assert [row['step'] for row in rows(unbroken)] == [4, 8, 12]
  assert all(set(row) == {'step', 'skipped', 'loss', 'noise'} for row in rows(unbroken))
  noise = [jax.random.normal(jax.random.fold_in(jax.random.key(0), k), (3,))[0] for k in range(12)]
  np.testing.assert_allclose([row['noise'] for row in rows(unbroken)],
                             np.reshape(noise, (3, 4)).mean(1), rtol=1e-5)


def test_timing_is_kept_apart(unbroken):
  timing = [json.loads(line) for line in (unbroken / 'timing.jsonl').read_text().splitlines()]
  assert [row['step'] for row in timing] == [4, 8, 12]
  assert {'build', 'init', 'compile', 'steps'} <= set(timing[-1]['seconds']) and timing[-1][
      'memory'] > 0


def stop_at(monkeypatch, step, act):
  """Calls act() within the call that reaches `step`."""
  add = metrics.add
  seen = []
  def spy(running, values, steps):
    seen.append(steps)
    if sum(seen) == step:
      act()
    return add(running, values, steps)
  monkeypatch.setattr(metrics, 'add', spy)


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT', 'SIGUSR1'])
@pytest.mark.parametrize('step', [4, 6, 10])
def test_a_signal_saves_and_the_same_command_goes_on_as_if_unbroken(tmp_path, monkeypatch, capfd,
                                                                    unbroken, name, step):
  with monkeypatch.context() as patch:
    stop_at(patch, step, lambda: os.kill(os.getpid(), getattr(signal, name)))
    assert run(tmp_path / 'broken') == loop.Outcome(step, name, {})
  out = capfd.readouterr()
  assert f'{name}: saved step {step} of 12' in out.out and 'the same command goes on' in out.out
  assert 'once more stops at once' in out.err
  assert run(tmp_path / 'broken').why == 'done'
  assert same_run(tmp_path / 'broken', unbroken)


def test_the_step_is_traced_once_by_a_run_of_many_calls_and_not_again_where_it_goes_on(
    tmp_path, monkeypatch):
  chex.clear_trace_counter()
  training = make_training(make_config(), None)
  advance = training.stages[0][1].__wrapped__                         # before jit
  counted = jax.jit(chex.assert_max_traces(advance, n=1), donate_argnums=0)
  monkeypatch.setattr(build, 'training',
                      lambda *_, **__: training._replace(stages=((0, counted),)))
  with monkeypatch.context() as patch:
    stop_at(patch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run(tmp_path) == loop.Outcome(6, 'SIGTERM', {})
  assert run(tmp_path) == loop.Outcome(12, 'done', {})           # with the state from the disk


@pytest.mark.parametrize('own', [signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler])
def test_signal_handlers_are_put_back(own):
  before = {name: signal.signal(getattr(signal, name), own) for name in SIGNALS}
  try:
    with stop_signals():
      assert own not in [signal.getsignal(getattr(signal, name)) for name in SIGNALS]
    assert {signal.getsignal(getattr(signal, name)) for name in SIGNALS} == {own}
  finally:
    for name, handler in before.items():
      signal.signal(getattr(signal, name), handler)


def test_after_a_signal_the_next_one_acts_at_once():
  with stop_signals() as caught:
    os.kill(os.getpid(), signal.SIGTERM)
    assert caught == ['SIGTERM'] and signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_a_crash_between_two_checkpoints_is_repeated_exactly(tmp_path, monkeypatch, unbroken):
  def crash():
    raise RuntimeError('power')
  with monkeypatch.context() as patch:
    stop_at(patch, 10, crash)  # rows of steps 4 and 8 stand, the newest checkpoint is 6
    with pytest.raises(RuntimeError, match='power'):
      run(tmp_path / 'broken')
  assert [row['step'] for row in rows(tmp_path / 'broken')] == [4, 8]
  run(tmp_path / 'broken')
  assert same_run(tmp_path / 'broken', unbroken)


def test_a_second_run_in_a_workdir_is_refused_and_touches_nothing(tmp_path, monkeypatch, unbroken):
  tried = []
  def second():
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'shared').rglob('*')}
    with refused(f'process {os.getpid()} on .*--workdir'):
      run(tmp_path / 'shared', prompt='another')
    tried.append('another')
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / 'shared').rglob('*')} == before
  stop_at(monkeypatch, 4, second)                  # before the first has saved
  assert run(tmp_path / 'shared').why == 'done'
  assert tried == ['another'] and same_run(tmp_path / 'shared', unbroken)


FULL = {'a row': OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        'a quota': OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        'a checkpoint': ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device "
                                   "[os_error_code='28']")}


@pytest.mark.parametrize('what', FULL)
def test_a_disk_that_fills_is_one_line_with_the_workdir_and_the_same_command_goes_on(
    tmp_path, monkeypatch, unbroken, what):
  def fail():
    raise RuntimeError('while it was written') from FULL[what]
  with monkeypatch.context() as patch:
    stop_at(patch, 10, fail)
    with refused(f"{tmp_path / 'broken'}: its disk is full.*step 6"):
      run(tmp_path / 'broken')
  run(tmp_path / 'broken')
  assert same_run(tmp_path / 'broken', unbroken)


@pytest.mark.parametrize('free, what', [(8, 'a picture'), (16, 'the state'), (60, 'a step')])
def test_memory_that_is_not_there_is_refused_before_the_first_step(tmp_path, monkeypatch,
                                                                   free, what):
  monkeypatch.setattr(metrics, 'free_memory', lambda: free)
  monkeypatch.setattr(loop.fitting, 'ways', lambda *_, **__: 'fewer views')
  monkeypatch.setattr(loop.profiling, 'yet_to_take', lambda compiled: 61)
  monkeypatch.setattr(metrics, 'add', None)        # what the first step would call
  with refused(f'{what} needs .* GiB of memory and .* free; '):
    run(tmp_path, scene={'name': 'x'}, eval={'size': 1} if what == 'a picture' else {})


def test_two_and_two_steps_are_four(tmp_path):
  run(tmp_path / 'whole', steps=4, log_every=2)
  run(tmp_path / 'parts', steps=2, log_every=2)
  run(tmp_path / 'parts', steps=4, log_every=2)
  assert same_run(tmp_path / 'parts', tmp_path / 'whole')


def test_a_run_goes_on_on_other_devices(tmp_path, unbroken):
  run(tmp_path / 'parts', steps=6, devices=4)
  run(tmp_path / 'parts', devices=2)
  state, whole = (last_state(folder)[0] for folder in (tmp_path / 'parts', unbroken))
  np.testing.assert_allclose(state.params['scene']['x'], whole.params['scene']['x'], rtol=1e-6)


def test_a_finished_run_is_not_run_again(unbroken, monkeypatch):
  monkeypatch.setattr(loop, 'train', None)
  assert run(unbroken) == loop.Outcome(12, 'done', {})


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path):
  assert run(tmp_path / 'ill', poison=(8, 8)) == loop.Outcome(12, 'done', {})
  assert [row['skipped'] for row in rows(tmp_path / 'ill')] == [0, 0, 1]
  noise = [jax.random.normal(jax.random.fold_in(seeds.key(0), k), (3,)) for k in range(12)]
  assert rows(tmp_path / 'ill')[2]['noise'] == pytest.approx(np.mean(noise[9:], 0)[0], rel=1e-5)
  x, tx = jnp.zeros(3), optax.adam(.1)
  opt = tx.init(x)
  for k in (*range(8), 9, 10, 11):
    updates, opt = tx.update(x - 1. + noise[k], opt)
    x += updates
  state, _ = last_state(tmp_path / 'ill')
  np.testing.assert_allclose(state.params['scene']['x'], x, rtol=1e-5)


def test_a_row_of_skipped_steps_alone_has_no_means(tmp_path):
  run(tmp_path, poison=(4, 7), guard={'skips': 5})
  assert rows(tmp_path)[1] == {'step': 8, 'skipped': 4}


ILL = {'poison': (7, 99), 'cured': 1}  # the checkpoint of step 6 is good, a step followed it


def test_steps_in_a_row_lead_back_to_the_newest_good_checkpoint_with_fresh_noise(tmp_path, capfd,
                                                                                 unbroken):
  assert run(tmp_path, **ILL) == loop.Outcome(12, 'done', {})
  said = [line for line in capfd.readouterr().out.splitlines() if 'fresh noise' in line]
  assert len(said) == 1 and 'steps 9 to 10 were not finite' in said[
      0] and 'back to step 6 with fresh noise, 1 of 2' in said[0]
  assert guard.read(tmp_path, begun=True) == (6,)
  mine, others = rows(tmp_path), rows(unbroken)
  assert mine[0] == others[0] and [row['skipped'] for row in mine] == [0, 0, 0]
  assert mine[1] != others[1] and mine[2] != others[2]


@pytest.mark.parametrize('poison, back', [((5, 99), 0), ((6, 99), 0), ((7, 99), 6), ((9, 99), 6)])
def test_a_checkpoint_that_no_finite_step_followed_is_not_good(tmp_path, poison, back):
  assert run(tmp_path, poison=poison, cured=1).why == 'done'
  assert guard.read(tmp_path, begun=True) == (back,)


@pytest.mark.parametrize('count', [3, 4, 5, 6, 7])
def test_a_run_that_was_taken_back_can_be_killed_at_any_step(tmp_path, monkeypatch, count):
  def crash():
    raise RuntimeError('power')
  run(tmp_path / 'whole', **ILL)
  with monkeypatch.context() as patch:
    stop_at(patch, STRIDE * count, crash)        # steps 8, 10, and then again 8, 10, 12
    with pytest.raises(RuntimeError, match='power'):
      run(tmp_path / 'killed', **ILL)
  assert run(tmp_path / 'killed', **ILL).why == 'done'
  assert same_run(tmp_path / 'killed', tmp_path / 'whole')


@pytest.mark.parametrize('count', range(5, 13))
def test_so_can_one_that_went_back_further_the_second_time(tmp_path, monkeypatch, count):
  def crash():
    raise RuntimeError('power')
  twice = ILL | {'cured': 2}
  assert run(tmp_path / 'whole', **twice).why == 'done'
  assert guard.read(tmp_path / 'whole', begun=True) == (6, 0)
  with monkeypatch.context() as patch:
    stop_at(patch, STRIDE * count, crash)        # steps 10, then 8, then 2 to 12 once more
    with pytest.raises(RuntimeError, match='power'):
      run(tmp_path / 'killed', **twice)
  assert run(tmp_path / 'killed', **twice).why == 'done'
  assert same_run(tmp_path / 'killed', tmp_path / 'whole')
  key = guard.key_at(seeds.key(0), (6, 0), 12)
  np.testing.assert_array_equal(*(jax.random.key_data(k) for k in (
    last_state(tmp_path / 'killed')[0].key, key)))


def test_the_key_is_of_the_times_that_a_run_went_back_and_still_stands_on():
  times = lambda went_back, *steps: [guard.which(went_back, step) for step in steps]
  assert times((), 0, 6) == [0, 0]
  assert times((6,), 0, 6, 12) == [0, 1, 0]
  assert times((6, 6, 12), 0, 6, 12) == [0, 2, 3]
  assert times((6, 0), 0, 6, 12) == [2, 0, 0]
  assert times((6, 0, 6), 0, 6, 12) == [2, 3, 0]
  own, fold = seeds.key(3), lambda key, number: jax.random.fold_in(key, guard.AGAIN + number)
  for went_back, step, expected in (
      ((6, 12), 3, own), ((6, 12), 6, fold(own, 1)), ((6, 12), 20, fold(fold(own, 1), 2)),
      ((12, 6), 20, fold(own, 2)), ((6, 0, 6), 9, fold(fold(own, 2), 3))):
    key = guard.key_at(own, went_back, step)
    assert (jax.random.key_data(key) == jax.random.key_data(expected)).all()


def test_told_to_stop_among_skipped_steps_a_run_goes_on_from_before_them(tmp_path, monkeypatch,
                                                                         capfd):
  run(tmp_path / 'whole', **ILL)
  with monkeypatch.context() as patch:
    stop_at(patch, 10, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run(tmp_path / 'told', **ILL) == loop.Outcome(10, 'SIGTERM', {})
  assert 'saved step 6 of 12' in capfd.readouterr().out
  assert run(tmp_path / 'told', **ILL).why == 'done'
  assert same_run(tmp_path / 'told', tmp_path / 'whole')


@pytest.mark.parametrize('poison, kept', [((7, 99), 'step 6 is the last good checkpoint'),
                                          ((1, 99), 'nothing good was saved yet')])
def test_what_does_not_pass_is_named_with_its_steps_and_never_saved(tmp_path, poison, kept):
  last = 2 * (poison[0] // 2) + 4
  for _ in range(2):                             # the same command meets it again
    with refused(f'steps {last - 1} to {last} are not finite.* 2 times back.*of step {last} '
                 f'gradient/x is the first; {kept}.*--workdir', FloatingPointError):
      run(tmp_path, poison=poison)
    assert workdirs.finished_steps(tmp_path) == ([6] if poison[0] > 6 else [])
    assert [row['step'] for row in rows(tmp_path)] == ([4, 8] if poison[0] > 6 else [4])
  if poison[0] < 6:                              # nothing was saved: another run may begin here
    assert run(tmp_path, seed=1).why == 'done' and guard.read(tmp_path, begun=True) == ()


def test_time_that_is_up_stops_saves_and_still_writes_the_outputs(tmp_path, monkeypatch, unbroken):
  finished = []
  monkeypatch.setattr(finishing, 'finish', lambda *_, step, **__: finished.append(step) or {})
  assert run(tmp_path / 'short', max_minutes=1e-9) == loop.Outcome(STRIDE, 'max_minutes', {})
  assert finished == [STRIDE]
  run(tmp_path / 'short')
  assert same_run(tmp_path / 'short', unbroken)


REFUSED = {
  'steps': (0, 'steps=0'), 'log_every': (0, 'log_every=0'), 'keep': (0, 'keep=0'),
  'max_minutes': (-1., 'max_minutes=-1'),
  'profile_steps': ('5', "'a:b'"), 'preview_every': (-1, 'preview_every=-1')}


@pytest.mark.parametrize('option', REFUSED)
def test_a_bad_option_is_refused_before_anything_is_built(tmp_path, monkeypatch, option):
  monkeypatch.setattr(build, 'training', None)
  value, named = REFUSED[option]
  with refused(named):
    run(tmp_path, **{option: value})
  assert not any(tmp_path.iterdir())


def test_steps_that_do_not_divide_are_refused_with_those_that_do(tmp_path):
  with pytest.raises(ValueError, match='give steps=12 or steps=14'):
    run(tmp_path, steps=13)


def test_another_config_and_an_unwritable_workdir_are_refused_before_anything_is_built(
    unbroken, monkeypatch):
  monkeypatch.setattr(build, 'training', None)
  with pytest.raises(ValueError, match='lr is 0.1 there, 0.2 here.*--workdir'):
    run(unbroken, lr=.2)
  with pytest.raises(ValueError, match='cannot write into .*--workdir'):
    run(unbroken / 'metrics.jsonl')


def test_pictures_of_a_corpus_are_of_prompts_evenly_apart():
  for count in (1, 3, 4, 5, 8, 447):
    chosen = [int(prompt) for prompt in finishing.spread(tuple(map(str, range(count))), 4)]
    apart = {*np.diff([*chosen, count])[:-1]} or {1}
    assert chosen[0] == 0 and min(count, 3) <= len(chosen) <= 4 and len(
        apart) == 1 and count - chosen[-1] <= max(apart)


def test_previews_hold_four_views_and_those_of_repeated_steps_are_dropped(tmp_path):
  from PIL import Image
  run(tmp_path, preview_every=4)
  pictures = sorted(path.name for path in (tmp_path / 'previews').iterdir())
  assert pictures == ['step_000004.png', 'step_000008.png', 'step_000012.png']
  picture = np.asarray(Image.open(tmp_path / 'previews' / pictures[0]))
  assert picture.shape == (4, 16, 3)
  # cos of 0, 90, 180, 270 degrees
  assert (picture[:, [0, 8]] == 255).all() and (picture[:, [4, 12]] == 0).all()
  finishing.drop_previews(tmp_path, 8)
  assert sorted(path.name for path in (tmp_path / 'previews').iterdir()) == pictures[:2]


@pytest.mark.parametrize('step', [4, 8, 12])
def test_a_run_that_ends_once_a_step_is_saved_draws_its_preview_when_it_goes_on(tmp_path,
                                                                                monkeypatch, step):
  """Stopped by a signal it saves first; a kill may come between the two, at the last step too."""
  run(tmp_path / 'unbroken', preview_every=4)
  with monkeypatch.context() as patch:
    patch.setattr(loop, 'preview', lambda *_, before, step: None)
    if step < 12:
      stop_at(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run(tmp_path / 'broken', preview_every=4).step == step
  run(tmp_path / 'broken', preview_every=4)
  one, two = ((tmp_path / name / 'previews' / f'step_{step:06}.png').read_bytes()
              for name in ('unbroken', 'broken'))
  assert one == two


def test_the_profiler_writes_a_trace(tmp_path):
  run(tmp_path, profile_steps='4:6')
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


def test_a_run_in_a_thread_goes_without_signals(tmp_path):
  outcomes = []
  thread = threading.Thread(target=lambda: outcomes.append(run(tmp_path)))
  thread.start()
  thread.join()
  assert outcomes == [loop.Outcome(12, 'done', {})]


def test_a_failed_output_is_named_and_takes_no_other_along(tmp_path, monkeypatch, capfd):
  from jaxdreamer.outputs import mesh, report, video
  monkeypatch.undo()
  monkeypatch.setattr(build, 'training', make_training)
  monkeypatch.setattr(build, 'model', make_model)
  made = []
  def fail(*_, **__):
    raise ValueError('no surface')
  monkeypatch.setattr(video, 'turntable', lambda *_, **__: made.append('film'))
  monkeypatch.setattr(mesh, 'write', fail)
  monkeypatch.setattr(report, 'write', lambda *_, prompt, about, **__: made.append(
      f'report of {prompt}, {about["devices"][:4]}'))
  assert run(tmp_path) == loop.Outcome(12, 'done', {'mesh': 'no surface'})
  assert made == ['film', 'report of a quadratic, 1 x ']
  assert 'mesh failed: no surface' in capfd.readouterr().out
  assert 'Traceback' in (tmp_path / 'failed.txt').read_text()


@pytest.mark.slow
def test_a_process_told_to_stop_saves_and_another_goes_on_as_if_unbroken(tmp_path):
  """The same as above, with a process of its own and a signal from outside."""
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  process = subprocess.Popen([sys.executable, __file__, tmp_path / 'broken'], cwd=ROOT,
                             env=environment,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  while not process.stdout.readline().startswith('step 8/'):
    assert process.poll() is None, process.stderr.read()
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate()
  assert process.returncode == 0, err
  stopped = int(out.split('saved step ')[1].split()[0])
  assert stopped >= 8
  run(tmp_path / 'broken', steps=stopped + 8)
  run(tmp_path / 'whole', steps=stopped + 8)
  assert same_run(tmp_path / 'broken', tmp_path / 'whole')


if __name__ == '__main__':
  build.training, build.model = make_training, make_model
  finishing.finish = lambda *_, **__: {}
  run(pathlib.Path(sys.argv[1]), steps=10 ** 9)
