"""Stages follow one another: each starts from what the one before learned, and a run cut anywhere
goes on bit for bit."""
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxdreamer import build, checkpoints, finishing, places, stages, start, workdirs
from jaxdreamer.configs import base
from jaxdreamer.outputs import overview
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.scenes.voxels import voxels
from jaxdreamer.types import Scene

SIZE = 6


def reddish():
  """A prior that sees one flat picture, red, in everything."""
  return gaussian(jnp.broadcast_to(jnp.array([.8, .2, .1]), (SIZE, SIZE, 3)), std=.3)


def ball():
  """A scene of one number, its density, which it can adopt from any other at the center."""
  def adopt(params, object):
    return {'density': object.density(jnp.zeros((1, 3)))[0]}
  field = lambda code, xyz: (code['density'], jnp.full(3, .5))
  return Scene(lambda key: {'density': jnp.zeros(())}, lambda params, y: params, field,
               adopt=adopt)


def block():
  """Voxels that can adopt nothing."""
  return voxels(levels=(5,))


def make_config(**stage):
  config = base.get_config()
  config.prior.name = 'test_stages:reddish'
  config.scene.voxels.levels = (3,)
  config.steps, config.preview_every, config.checkpoint_every, config.log_every = 4, 0, 2, 2
  config.sampling.views, config.render.background = 2, 'white'
  config.render.update({'samples': 4, 'fine': 0})
  config.eval.update({'size': SIZE, 'samples': 4, 'mesh_resolution': 8})
  config.optim.groups = (('scene/field/.*', .05), ('scene/.*', .01), ('est/.*', .001))
  if stage:
    config.stages = ('one', *stage)
    config.stage.update(stage)
  return config


@pytest.fixture(autouse=True)
def finished(monkeypatch):
  """The steps at which outputs were made; no more is made of them than a page."""
  made = []
  def finish(config, model, params, workdir, *, step, **_):
    (workdir / 'report.html').write_text('a page')
    made.append((workdir.name, step))
    return {}
  monkeypatch.setattr(finishing, 'finish', finish)
  return made


def run(config, workdir):
  return stages.run(config, workdir, build.make_mesh(config))


def bits(config, folder):
  """{name: bytes} of all that the newest checkpoint in `folder` holds."""
  training = build.training(config, build.make_mesh(config))
  with checkpoints.reader(folder) as saved:
    state, _ = checkpoints.restore(saved, training.init(jax.random.key(0)))
  state = state.replace(key=jax.random.key_data(state.key))
  return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
          for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def scene(config, folder):
  like = build.make_scene(config).init(jax.random.key(0))
  with checkpoints.reader(folder) as saved:
    return jax.device_get(checkpoints.restore_scene(saved, like)[0])


def test_a_stage_is_the_config_with_its_changes():
  config = make_config(two={'steps': 8, 'estimator': {'name': 'csd'}})
  rate = base.of_steps(config, lambda steps: (('scene/.*', (.1, .2, steps)), ('est/.*', .1)))
  config.optim.groups = rate
  config.prompt = 'a red mug'
  each = stages.of(config)
  assert list(each) == ['one', 'two']
  assert [c.steps for c in each.values()] == [4, 8]
  assert [c.estimator.name for c in each.values()] == ['sds', 'csd']
  assert {c.prompt for c in each.values()} == {'a red mug'}
  assert each['two'].optim.groups[0][1] == (.1, .2, 8)  # schedules follow the stage's own steps
  assert config.estimator.name == 'sds' and config.optim.groups[0][1] == (.1, .2, 4)
  assert not any(c.stages or c.stage for c in each.values())


def test_each_stage_starts_from_the_one_before_and_frozen_parameters_stay(tmp_path):
  still = {'optim': {'groups': (('scene/.*', 0.), ('est/.*', .001))}}
  config = make_config(two=still, three={'steps': 2})
  assert run(config, tmp_path) == (2, 'done', {})
  one, two, three = (scene(config, tmp_path / name) for name in ('one', 'two', 'three'))
  jax.tree.map(np.testing.assert_array_equal, one, two)
  assert all(np.abs(a - b).max() > 0. for a, b in zip(*map(jax.tree.leaves, (two, three))))
  fresh = build.make_scene(config).init(jax.random.key(0))
  # three's first two steps at rate .05 cannot lead further away than they are long
  moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (two, three)))]
  assert max(moved) < .11 < max(np.abs(a - b).max()
                                for a, b in zip(*map(jax.tree.leaves, (fresh, three))))
  page = (tmp_path / 'report.html').read_text()
  assert page.index('three/report.html') < page.index('one/report.html') and 'To come' not in page
  assert workdirs.newest_stage(tmp_path) == tmp_path / 'three'
  assert workdirs.newest_stage(tmp_path / 'one') == tmp_path / 'one'


def test_a_run_that_was_cut_in_a_stage_or_between_two_goes_on_bit_for_bit(tmp_path, finished):
  csd = {'estimator': {'name': 'csd'}}
  config, whole, cut = make_config(two=csd), tmp_path / 'whole', tmp_path / 'cut'
  run(config, whole)
  first = make_config(two=csd)
  first.steps = 2                                # in the first stage, at a checkpoint
  first.stages, first.stage = ('one',), {}
  run(first, cut)
  first.steps = 4                                # between the two
  run(first, cut)
  run(make_config(two=csd | {'steps': 2}), cut)  # in the second
  finished.clear()
  run(config, cut)
  assert finished == [('two', 4)]
  each = stages.of(config)
  for name in each:
    assert bits(each[name], whole / name) == bits(each[name], cut / name)
    assert ((whole / name / 'metrics.jsonl').read_text()
            == (cut / name / 'metrics.jsonl').read_text())


def test_a_scene_of_another_kind_adopts_what_it_can(tmp_path):
  config = make_config()
  run(config, tmp_path / 'voxels')
  other = make_config()
  other.scene.name = 'test_stages:ball'
  other.start = str(tmp_path / 'voxels')
  state = build.training(other, build.make_mesh(other)).init(jax.random.key(0))
  begun = start.begun(other, state)
  model = build.model(config, lambda prompt: None, (config.prompt,))
  before = model.object(scene(config, tmp_path / 'voxels'), config.prompt)
  assert begun.params['scene']['field']['density'] == before.density(jnp.zeros((1, 3)))[0] > 0.
  jax.tree.map(np.testing.assert_array_equal, begun.opt, state.opt)
  other.scene.name = 'test_stages:block'
  state = build.training(other, build.make_mesh(other)).init(jax.random.key(0))
  with refused("config.start=.*: config.scene.name='test_stages:block' can take over nothing of "
               "its scene, 'voxels'"):
    start.begun(other, state)


def test_what_is_inherited_are_leaves_of_one_name_and_shape_that_a_pattern_matches():
  old = {'field': {'a': np.ones(3), 'b': np.ones(3), 'c': np.ones(4)}, 'background': np.ones(2)}
  new = {'field': {'a': np.zeros(3), 'c': np.zeros(3), 'd': np.zeros(3)}, 'background': np.zeros(2)}
  params, taken = start.inherited(new, old, ('scene/field/.*',))
  assert taken == 1 and params['field']['a'].all()
  assert not (params['field']['c'].any() or params['field']['d'].any()
              or params['background'].any())
  assert start.inherited(new, old, ('.*',))[1] == 2
  assert start.inherited(new, old, ('scene/field', 'a'))[1] == 0      # of whole names


def test_a_start_is_told_by_its_run_and_step_wherever_it_lies(tmp_path):
  config = make_config()
  run(config, tmp_path / 'first')
  def of(folder):
    other = make_config()
    other.start = str(tmp_path / folder)
    return places.contents(other).get('start')
  mark = of('first')
  assert mark.endswith(' at step 4')
  shutil.move(tmp_path / 'first', tmp_path / 'moved')
  assert of('moved') == mark and of('first') is None
  config.steps = 6
  run(config, tmp_path / 'moved')
  assert of('moved') != mark


def test_slips_are_told_in_one_line(tmp_path):
  def wrong(match, config):
    with refused(match):
      run(config, tmp_path / 'new')
    assert not (tmp_path / 'new').exists()
  config = make_config(two={})
  config.stages = ()
  wrong(r"config.stages=\(\): takes names, each once, of \['two'\]", config)
  config.stages = ('two', 'two')
  wrong('each once', config)
  config.stages = ('../one', 'two')
  wrong('config.stages=.*: takes names of letters, digits, _ and -', config)
  config.stages = ('one', 'tow')
  wrong(r"config.stage.two: config.stages=\('one', 'tow'\) names no such stage", config)
  config.stages = ('one',)               # the first alone is asked for
  assert list(stages.of(config)) == ['one']
  wrong('config.stage.two: there is no option config.stepz; nearest: config.steps',
        make_config(two={'stepz': 5}))
  wrong('config.steps=0: takes a whole number, 1 or more', make_config(two={'steps': 0}))
  wrong("config.estimator.name='sdz': takes one of",
        make_config(two={'estimator': {'name': 'sdz'}}))
  alone = make_config()
  alone.start = str(tmp_path / 'nowhere')
  with refused('nowhere holds no run'):
    run(alone, tmp_path / 'new')


def test_the_page_shows_what_is_there_and_names_what_is_to_come(tmp_path):
  (tmp_path / 'one').mkdir()
  (tmp_path / 'one' / 'report.html').write_text('a page')
  (tmp_path / 'one' / 'turntable.png').write_bytes(b'\x89PNG')
  page = overview.write(tmp_path, prompt='<b>a cube</b>', stages=['one', 'two']).read_text()
  assert 'href="one/report.html"' in page and 'data:image/png;base64,iVBORw==' in page
  assert 'To come: two' in page and '<b>a cube' not in page
