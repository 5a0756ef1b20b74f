"""The viewer: a visitor's camera is ours, only the newest wish is shown, a workdir is followed and
never written to; and the page itself, in a browser where there is one."""
import math
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chromium import browse, until
from scipy.spatial.transform import Rotation

from configs import toybox, toybox_amortised
from jaxdreamer import build, cameras, checkpoints, guard, render, seeds, workdirs
from jaxdreamer.outputs import video
from jaxdreamer.types import Rendering
from jaxdreamer.viewing import follow, lookout
from jaxdreamer.viewing.desk import COARSE, FINE, Desk
from jaxdreamer.viewing.lookout import Lookout

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEY = jax.random.key(0)
WHITE = np.ones(3, np.float32)


def lookout_of(camera, *, aspect=1.):
  return Lookout(*lookout.of_camera(camera), float(camera.fov), aspect)


def test_a_camera_there_and_back_is_itself_and_renders_the_same_picture():
  field = lambda xyz: (20. * jax.nn.sigmoid(40. * (.5 - jnp.linalg.norm(
    xyz - jnp.array([.1, .2, .3])))), .5 + .5 * jnp.tanh(xyz))
  draw = jax.jit(lambda camera: render.image(KEY, field, camera, size=24, samples=24,
                                             jitter=0.).rgb)
  for one in video.unbatch(cameras.orbit((3, .26), (2, -.8), fov=.6)):
    back = lookout.to_camera(lookout_of(one))
    for ours, theirs in zip(one[:5], back[:5]):
      error = np.asarray(ours) - theirs
      if np.ndim(error) == 0 and ours is one.azimuth:
        error = (error + math.pi) % (2. * math.pi) - math.pi
      np.testing.assert_allclose(error, 0., atol=2e-6)
    np.testing.assert_allclose(draw(one), draw(back), atol=1e-4)


def seen_directions(camera, size, *, frame=0):
  """A Rendering [size, size] whose color is the direction of each pixel's ray, from 0 to 1, but
  for a white frame."""
  rgb = .5 + .5 * np.asarray(cameras.rays(camera, size).direction)
  if frame:
    rgb = np.pad(rgb[frame:-frame, frame:-frame], 2 * [2 * [frame]] + [[0, 0]], constant_values=1.)
  flat = np.ones((size, size))
  return Rendering(rgb, flat, flat, np.zeros((size, size, 3)), *(None,) * 7)


@pytest.mark.parametrize('aspect', [.5, 1., 1.9])
@pytest.mark.parametrize('ball', [0., 1.])
def test_each_pixel_of_a_window_looks_where_viser_says(aspect, ball):
  """In viser's camera, +x is right, +y down and +z ahead."""
  wxyz = np.array([.3, -.5, .7, .2]) / np.linalg.norm([.3, -.5, .7, .2])
  rotation = Rotation.from_quat(wxyz[[1, 2, 3, 0]]).as_matrix()
  where = Lookout(wxyz, -3. * rotation[:, 2] + .2, .7, aspect)
  camera = lookout.to_camera(where, ball=ball)
  directions = seen_directions(camera, 96, frame=2 * bool(ball))
  seen = lookout.picture([directions], camera, where, kind='color')
  h, w = seen.shape[:2]
  assert w / h == pytest.approx(aspect, rel=.02)
  tan = math.tan(.5 * where.fov)
  x = (2. * (np.arange(w) + .5) / w - 1.) * tan * aspect
  y = (2. * (np.arange(h) + .5) / h - 1.) * tan
  ahead = np.stack(np.broadcast_arrays(x[None], y[:, None], 1.), -1)
  ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
  apart = np.abs(seen / 255. - (.5 + .5 * ahead @ rotation.T)).max(-1)
  # a ball bounds the square: around it all is as at its border, and within it as before
  limit = math.tan(.5 * camera.fov) - 8. * bool(ball) * math.tan(.5 * camera.fov) / 96
  within = (np.abs(x)[None] < limit) & (np.abs(y)[:, None] < limit)
  assert within.mean() > (.3 if ball else .999) and apart[within].max() < .01
  beyond = (np.abs(x)[None] > limit + .1) | (np.abs(y)[:, None] > limit + .1)
  assert not beyond.any() or seen[beyond].min() == 255


@pytest.mark.parametrize('seed', range(20))
def test_the_square_holds_all_of_the_ball_that_a_window_shows(seed):
  random = np.random.default_rng(seed)
  wxyz = Rotation.random(rng=seed).as_quat()[[3, 0, 1, 2]]
  where = Lookout(wxyz, random.normal(size=3) * 2., random.uniform(.3, 1.5),
                  random.uniform(.4, 2.5))
  camera = lookout.to_camera(where, ball=1.)
  points = random.normal(size=(4000, 3))
  points /= np.linalg.norm(points, axis=1, keepdims=True)
  x, y, z = ((points - where.position) @ camera.world_from_camera[:3, :3]).T
  tan = math.tan(.5 * where.fov)
  shown = (z < 0.) & (np.abs(y / z) < tan) & (np.abs(x / z) < tan * where.aspect)
  square = math.tan(.5 * camera.fov) * (1. + 1e-5)
  assert (np.maximum(np.abs(x), np.abs(y))[shown] <= -z[shown] * square).all()


def test_depth_is_told_along_the_view_and_stands_still_where_nothing_is_hit():
  camera = lookout.to_camera(Lookout(np.array([1., 0., 0., 0.]), np.zeros(3), 1.2, 1.5))
  away = np.asarray(cameras.rays(camera, 64).direction)[..., 2]      # it looks along +z
  seen = Rendering(None, (np.arange(64) < 32)[None] * np.ones((64, 64)), 2.5 / away,
                   *(None,) * 8)
  depth = lookout.along_view(seen, camera, Lookout(None, None, 1.2, 1.5), far=100.)
  half = depth.shape[1] // 2
  np.testing.assert_allclose(depth[:, :half], 2.5, rtol=1e-5)
  np.testing.assert_array_equal(depth[:, half:], 100.)


def test_two_runs_stand_side_by_side_and_share_a_scale_of_depth():
  where = Lookout(np.array([1., 0., 0., 0.]), np.array([0., 0., -3.]), .7, .8)
  camera = lookout.to_camera(where)
  flat = lambda color, depth: Rendering(np.full((16, 16, 3), color), np.ones((16, 16)),
                                        np.full((16, 16), depth), np.zeros((16, 16, 3)),
                                        *(None,) * 7)
  pair = [flat(.2, 2.), flat(.6, 3.)]
  seen = lookout.picture(pair, camera, where, kind='color')
  h, w = seen.shape[:2]
  assert w / h == pytest.approx(1.6, rel=.05)
  core = seen[h // 3:-h // 3]
  assert (core[:, 4:w // 2 - 4] == 51).all() and (core[:, w // 2 + 4:-4] == 153).all()
  left, right = (lookout.picture(pair, camera, where, kind='depth')[h // 2, x]
                 for x in (w // 4, 3 * w // 4))
  assert left.astype(int).sum() > right.astype(int).sum() + 200          # near is bright


def test_a_newer_wish_supersedes_and_a_fine_picture_waits_for_rest():
  now = [0.]
  wishes = Desk(rest=1., clock=lambda: now[0])
  assert wishes.next(COARSE) == wishes.next(FINE) == (None, None)
  for what in 'abc':
    wishes.ask(7, what)
  first, _ = wishes.next(COARSE)
  assert first.what == 'c' and wishes.next(COARSE) == (None, None)       # a and b are never made
  now[0] = .25
  assert wishes.next(FINE) == (None, .75)
  wishes.ask(7, 'd')                                                     # while c is being made
  assert not wishes.deliver(first)
  second, _ = wishes.next(COARSE)
  now[0] = 1.5
  fine, _ = wishes.next(FINE)
  assert second.what == fine.what == 'd'
  assert wishes.deliver(fine) and not wishes.deliver(second)             # the coarse came too late
  wishes.again()
  assert wishes.next(COARSE)[0].what == 'd'


def test_visitors_are_served_in_turn_and_those_who_left_are_not():
  now = [0.]
  wishes = Desk(rest=0., clock=lambda: now[0])
  for who in (1, 2, 3):
    now[0] = float(who)
    wishes.ask(who, 'x')
  now[0] = 9.
  wishes.ask(1, 'y')                                   # who moves most does not come first
  wishes.forget(3)
  assert [wishes.next(COARSE)[0].who for _ in range(2)] == [2, 1]
  job, _ = wishes.next(FINE)
  wishes.forget(job.who)
  assert not wishes.deliver(job)


def test_a_desk_wakes_who_waits_and_ends_them_when_it_closes():
  wishes, made = Desk(rest=.01), []
  def work(level):
    while job := wishes.take(level):
      made.append(job[1:3])
  threads = [threading.Thread(target=work, args=(level,)) for level in (COARSE, FINE)]
  for thread in threads:
    thread.start()
  wishes.ask(0, 'a')
  until(lambda: len(made) == 2, seconds=10., every=.01)
  wishes.close()
  for thread in threads:
    thread.join(10.)
  assert made == [('a', COARSE), ('a', FINE)] and not any(t.is_alive() for t in threads)


def test_which_checkpoint_is_chosen():
  assert [follow.chosen([100, 150, 300], wanted) for wanted in (None, 999, 300, 299, 150, 7)] == [
    300, 300, 300, 150, 150, 100]
  assert follow.spacing([100]) == (100, 100, 1)
  assert follow.spacing([100, 150, 300]) == (100, 300, 50)


def options(steps=40):
  config = toybox.get_config()
  config.prompt, config.steps, config.scene.name = 'a red mug', steps, 'voxels'
  config.eval.size, config.eval.samples, config.eval.fine = 32, 24, 24
  config.eval.mesh_resolution = 32
  return config


def bar(params, length):
  """The scene's parameters made a red bar along x and z, of this half length."""
  grid = jax.tree.map(jnp.zeros_like, params)
  name = max(grid['field'], key=lambda name: grid['field'][name].shape[0])
  n = grid['field'][name].shape[0]
  x, y, z = jnp.meshgrid(*[jnp.linspace(-1., 1., n)] * 3, indexing='ij')
  inside = (jnp.abs(x - z) < .3) & (jnp.abs(y) < .15) & (jnp.abs(x) < length)
  values = jnp.stack([jnp.where(inside, 60., -60.), *(c + 0. * x for c in (6., -6., -6.))], -1)
  grid['field'][name] = values
  return grid


def write_run(folder, steps, *, config=None):
  """A run with checkpoints of bars that grow."""
  config = config or options()
  workdirs.claim(folder, config.to_dict())
  params = build.make_scene(config).init(KEY)
  with checkpoints.manager(folder, keep=9) as saved:
    for step in steps:
      state = {'step': jnp.int32(step), 'params': {'scene': bar(params, .3 + step / 100.)}}
      checkpoints.save(saved, step, state, {})
  return folder


def test_a_run_is_followed_from_checkpoint_to_checkpoint_and_not_written_to(tmp_path):
  folder = write_run(tmp_path / 'run', [10, 20, 40])
  before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
  run = follow.opened(folder)
  assert follow.steps_in(folder) == [10, 20, 40]
  camera = jax.tree.map(lambda a: a[0], cameras.orbit((1, .3)))
  seen = {}
  for step in (10, 40, 39):
    state = follow.state_at(run, step)
    object = state.object('')
    seen[state.step] = {size: object.render(camera, WHITE, size=size) for size in (16, 48)}
  assert sorted(seen) == [10, 20, 40]                  # 39 is gone: the one before it
  areas = [float(seen[step][48].opacity.mean()) for step in sorted(seen)]
  assert .01 < areas[0] < areas[1] < areas[2]
  assert seen[10][16].rgb.shape == (16, 16, 3) and seen[10][48].depth.shape == (48, 48)
  assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == before
  # a checkpoint that comes later is read by the same run
  write_run(folder, [50], config=options())
  assert follow.state_at(run, follow.steps_in(folder)[-1]).step == 50


def test_the_newest_stage_is_taken(tmp_path):
  whole = options()
  whole.stages = ('first', 'second')
  workdirs.claim(tmp_path, whole.to_dict())
  assert follow.steps_in(tmp_path) == []
  write_run(tmp_path / 'first', [10])
  assert follow.steps_in(tmp_path) == [10] and follow.opened(tmp_path).folder.name == 'first'
  write_run(tmp_path / 'second', [20])
  assert follow.steps_in(tmp_path) == [20] and follow.opened(tmp_path).folder.name == 'second'


@pytest.mark.parametrize('went_back', [(), (17,), (20,)])
def test_the_cameras_are_those_that_the_step_draws(tmp_path, went_back):
  config = options()
  config.sampling.views = 4
  config.cameras.jitter = (.1, .1, .05)
  config.mesh.data = 1
  training = build.training(config, build.make_mesh(config))
  state = training.init(seeds.key(config.seed)).replace(step=jnp.int32(17))
  state = guard.again(state, went_back)
  drawn, _, _ = training.parts.sample(jax.random.fold_in(state.key, 17), jnp.arange(4), 17)
  guard.write(tmp_path, went_back)
  seen = follow.State(follow.Run(tmp_path, config, model=None, resolution=0), {}, 17).cameras()
  for ours, theirs in zip(seen[:5], drawn[:5]):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@contextmanager
def started(*arguments, without=''):
  """The command in a process of its own, which ends with the block."""
  code = (f'import runpy, sys; sys.modules.update(dict.fromkeys({without.split()!r})); '
          'sys.argv[0] = "jaxdreamer.view"; '
          'runpy.run_module("jaxdreamer.view", run_name="__main__", alter_sys=True)')
  with subprocess.Popen([sys.executable, '-c', code, *map(str, arguments)], cwd=ROOT, text=True,
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
    try:
      yield process
    finally:
      process.kill()


def refused(*arguments, **how):
  """The one line that it leaves with, and its status."""
  with started(*arguments, **how) as process:
    out, said = process.communicate(timeout=120.)
  assert said.count('\n') == 1 and not out, (out, said)
  return process.returncode, said


@pytest.mark.slow
def test_the_slider_follows_a_run_until_it_is_moved_and_the_mesh_comes_beside(tmp_path):
  pytest.importorskip('viser')
  from jaxdreamer.viewing import viewer
  folder = write_run(tmp_path / 'run', [10, 20])
  before = set(threading.enumerate())
  with viewer.Viewer([folder], open=follow.opened, size=32, host='127.0.0.1', port=0) as page:
    shown = lambda: (page.shown[0].state.step, page.at.value, page.at.max)
    comes = lambda *numbers: until(lambda: shown() == numbers, seconds=60.)
    comes(20, 20, 20)
    write_run(folder, [30])
    comes(30, 30, 30)
    page.at.value = 10
    comes(10, 10, 30)
    write_run(folder, [40])
    comes(10, 10, 40)                                  # whoever looks back is left there
    page.at.value = 40
    write_run(folder, [50])
    comes(50, 50, 50)
    for how in (viewer.BESIDE, viewer.IN_PLACE, viewer.HIDDEN):
      page.mesh.value = how
      until(lambda: page.arrangement == how, seconds=120.)
      assert page.mesh_handle.visible == (how != viewer.HIDDEN)
      assert (np.linalg.norm(page.mesh_handle.position) > 0.) == (how == viewer.BESIDE)
    assert len(page.glbs) == 1                         # made once
    page.training.value = True
    until(lambda: len(page.frusta) == page.shown[0].state.run.config.sampling.views, seconds=60.)
    for k, handle in enumerate(page.frusta):
      camera = jax.tree.map(lambda a: a[k], page.shown[0].state.cameras())
      np.testing.assert_allclose(handle.position, camera.world_from_camera[:3, 3], atol=1e-6)
    assert page.said.content == f'`{folder}` step 50'
  # others, of tests before, may end meanwhile
  until(lambda: not set(threading.enumerate()) - before, seconds=60.)


@pytest.mark.slow
def test_a_generator_is_asked_for_what_the_visitor_writes(tmp_path):
  pytest.importorskip('viser')
  from jaxdreamer.viewing import viewer
  config = toybox_amortised.get_config()
  config.eval.size, config.eval.samples, config.eval.fine = 16, 8, 0
  workdirs.claim(tmp_path, config.to_dict())
  params = build.make_scene(config).init(KEY)
  with checkpoints.manager(tmp_path) as saved:
    checkpoints.save(saved, 10, {'step': jnp.int32(10), 'params': {'scene': params}}, {})
  with viewer.Viewer([tmp_path], open=follow.opened, size=16, host='127.0.0.1', port=0) as page:
    assert not page.prompt.disabled
    before = page.shown[0].object
    page.prompt.value = 'a blue teapot'
    until(lambda: page.shown[0].key[2] == 'a blue teapot', seconds=120.)
    xyz = np.random.default_rng(0).uniform(-.5, .5, (64, 3)).astype(np.float32)
    assert np.abs(page.shown[0].object.color(xyz) - before.color(xyz)).max() > 1e-6


def free_port():
  with socket.create_server(('127.0.0.1', 0)) as probe:
    return probe.getsockname()[1]


@pytest.mark.slow
def test_what_cannot_be_shown_is_refused_in_one_line(tmp_path):
  pytest.importorskip('viser')
  run = write_run(tmp_path / 'run', [10])
  status, said = refused(f'--workdir={tmp_path / "none"}')
  assert status == 1 and 'holds no run' in said
  status, said = refused(f'--workdir={run},{run},{run}')
  assert status == 2 and 'takes one run, or two' in said
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    status, said = refused(f'--workdir={run}', f'--port={port}')
    assert status == 1 and f'--port={port}' in said and 'in use' in said
  status, said = refused(f'--workdir={run}', '--host=203.0.113.7')
  assert status == 1 and '--host=203.0.113.7' in said


@pytest.mark.slow
def test_without_viser_it_says_what_to_install(tmp_path):
  status, said = refused(f'--workdir={write_run(tmp_path, [10])}', without='viser')
  assert status == 1 and "pip install 'jaxdreamer[viewer]'" in said


@pytest.mark.slow
def test_it_waits_for_the_first_checkpoint_and_ends_when_told(tmp_path):
  pytest.importorskip('viser')
  folder = write_run(tmp_path / 'run', [])
  with started(f'--workdir={folder}', '--port=0') as process:
    assert 'no checkpoint yet' in process.stdout.readline()
    write_run(folder, [10])
    assert re.fullmatch(r'http://127\.0\.0\.1:\d+\n', process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate(timeout=150.)
  assert process.returncode == 0 and out == said == ''


@pytest.mark.slow
def test_a_page_of_the_mesh_is_saved_and_stands_by_itself(tmp_path):
  pytest.importorskip('viser')
  run, page = write_run(tmp_path / 'run', [20]), tmp_path / 'new' / 'page.html'
  with started(f'--workdir={run}', f'--save={page}') as process:
    out, said = process.communicate(timeout=300.)
  assert process.returncode == 0 and out == f'{page}\n', said
  with browse(f'file://{page}', tmp_path / 'browser') as window:
    until(lambda: .02 < is_red(window.picture()).mean() < .3, seconds=120., every=.5)


def is_red(picture):
  r, g, b = np.moveaxis(picture, -1, 0)
  return (r > g + .3) & (r > b + .3)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_browser_sees_the_object_and_turns_it_and_all_ends_cleanly(tmp_path, number):
  pytest.importorskip('viser')
  run, port = write_run(tmp_path / 'run', [40]), free_port()
  with started(f'--workdir={run}', f'--port={port}', '--size=128') as process:
    url = process.stdout.readline().strip()
    assert url == f'http://127.0.0.1:{port}', process.communicate(timeout=10.)
    with browse(url, tmp_path / 'browser') as window:
      # what we render where a visitor stands at first, in their window
      object = follow.state_at(follow.opened(run), 40).object('')
      camera = cameras.orbital(math.radians(30.), math.radians(20.), object.away, object.fov)
      where = lookout_of(camera, aspect=1.5)
      square = lookout.to_camera(where)
      seen = jax.device_get(object.render(square, WHITE, size=225))
      expected = is_red(lookout.picture([seen], square, where, kind='color') / 255.)
      def overlap():
        shown = is_red(window.picture())[::2, ::2]
        assert shown.shape == expected.shape
        return (shown & expected).sum() / (shown | expected).sum()
      until(lambda: overlap() > .9, seconds=120., every=.5)
      window.drag((400, 300), (520, 330))
      until(lambda: overlap() < .8, seconds=120., every=.5)
      assert is_red(window.picture()).mean() > .01
      if number == signal.SIGTERM:                     # while it is looked at
        process.send_signal(number)
        assert process.wait(150.) == 0
    process.send_signal(number)
    out, said = process.communicate(timeout=150.)
    assert process.returncode == 0 and out == said == ''
    socket.create_server(('127.0.0.1', port)).close()                    # the port is free again


