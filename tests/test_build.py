"""Config -> functions: what is refused, before anything compiles, and in one line."""
import importlib
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from refusals import refused

from configs import base
from jaxdreamer import (
  build,
  cameras,
  checks,
  conditioning,
  options,
  registry,
  sampling,
  schedules,
  workdirs,
)
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.training import at_step

REFUSED = {
  'prompt': ('  ', 'config.prompt'),
  'scene.name': ('voxel', 'config.scene.name'),
  'prior.name': ('imagen', 'config.prior.name'),
  'prior.path': ('shapes', 'config.prior.path.*doctor'),
  'estimator.name': ('sdx', 'config.estimator.name'),
  'sampling.design': ('sobol', 'config.sampling.design'),
  'sampling.draws': (0, 'config.sampling.draws'),
  'sampling.density': ((1., 0.), 'config.sampling.density'),
  'scene.particles': (0, 'config.scene.particles'),
  'sampling.views': (0, 'config.sampling.views'),
  'render.background': ('sky', 'config.render.background'),
  'render.normals': ('smooth', 'config.render.normals'),
  'mesh.map': ('xmap', 'config.mesh.map'),
  'mesh.data': (64, 'config.mesh.data'),
  'steps_per_call': (7, 'config.steps'),
}


@pytest.mark.parametrize('option', sorted(REFUSED))
def test_a_bad_option_is_refused_by_name_with_what_it_takes(option):
  value, named = REFUSED[option]
  config = base.get_config()
  config.update_from_flattened_dict({option: value})
  with refused(named):
    build.training(config, build.make_mesh(config))


@pytest.mark.slow
def test_a_prior_without_an_encoder_takes_renders_of_its_own_size_alone():
  config = base.get_config()
  config.prior.name, config.prior.empirical.images, config.render.stages = 'empirical', 4, (
      (0, 32), (100, 64))
  with refused('config.render.stages.*64 pixels alone'):
    build.training(config, build.make_mesh(config))


def test_views_that_do_not_divide_by_the_devices_are_refused():
  config = base.get_config()
  config.sampling.views, config.mesh.data = 6, 4
  with pytest.raises(ValueError, match='config.sampling.views=6'):
    build.training(config, build.make_mesh(config))


def test_data_zero_takes_the_most_devices_that_divide_the_views():
  config = base.get_config()
  config.sampling.views = 6
  assert build.make_mesh(config).devices.size == max(d for d in range(1, len(jax.devices()) + 1)
                                                     if 6 % d == 0)


@pytest.mark.parametrize('views, used, all_busy', [(1, 1, 4), (2, 2, 4), (4, 4, None), (6, 3, 8),
                                                   (8, 4, None)])
def test_devices_that_idle_are_told_with_the_views_that_would_use_them(views, used, all_busy):
  config = base.get_config()
  config.sampling.views = views
  said = options.idle(config, build.make_mesh(config))
  if all_busy is None:
    assert said == ''
  else:
    assert f'{used} of 4 devices' in said and said.endswith(f'config.sampling.views={all_busy} '
                                                            'would use all of them')
    config.mesh.data = used                        # as asked for
    assert options.idle(config, build.make_mesh(config)) == ''


def test_missing_weights_are_named(tmp_path):
  config = base.get_config()
  config.prior.path = str(tmp_path / 'nothing.safetensors')
  with pytest.raises(FileNotFoundError, match='nothing.safetensors'):
    build.training(config, build.make_mesh(config))


@pytest.mark.parametrize('name', sorted(p.stem for p in (pathlib.Path(__file__).parents[1]
                                                         / 'configs').glob('*.py')))
def test_every_config_is_locked_and_names_only_what_exists(name):
  config = importlib.import_module(f'configs.{name}').get_config()
  with pytest.raises((AttributeError, KeyError)):
    config.step = 1
  for section, table in (('scene', registry.SCENES), ('prior', registry.PRIORS),
                         ('estimator', registry.ESTIMATORS)):
    assert config[section].name in table
    assert set(config[section]) - {'name', 'particles', 'path', 'hub', 'lora',
                                   'lora_scale'} <= set(table)
  assert set(config.regularizers) == set(registry.REGULARIZERS)


@pytest.mark.slow
def test_light_and_blur_reach_the_step():
  def moved(**options):
    config = base.get_config()
    config.scene.mlp.blur = (.1, 0., 10)
    config.update_from_flattened_dict({'scene.name': 'mlp', 'sampling.views': 1, 'mesh.data': 1,
                                       'render.samples': 4,
                                       'render.fine': 0} | options)
    training = build.training(config, build.make_mesh(config))
    _, state, info = next(training.fit(training.init(jax.random.key(0)), steps=1))
    assert float(info['finite']) == 1.
    return state.params['scene']['field']['encode']['kernel']
  lit, plain = moved(**{'render.shaded': (1.,)}), moved()
  assert (lit != plain).any()


def test_schedules_are_given_on_the_command_line_as_one_number_or_more(monkeypatch):
  monkeypatch.setattr('sys.argv', ['train', '--config.estimator.sds.guidance=5',
                                   '--config.sampling.t_max=.98,.5,100'])
  given = flags.FlagValues()
  config = config_flags.DEFINE_config_dict('config', base.get_config(), flag_values=given)
  given(sys.argv)
  assert schedules.at(config.value.estimator.sds.guidance, 7) == 5.
  assert schedules.at(config.value.sampling.t_max, 50) == pytest.approx(.74)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['csd', 'asd', 'vsd', 'ssd'])
def test_every_estimator_steps_on_the_toybox(name):
  """Through the shipped prior: its residual and what it learns for itself are finite, and both
  move."""
  config = importlib.import_module(f'configs.{name}').get_config()
  config.update_from_flattened_dict({'sampling.views': 1, 'mesh.data': 1, 'render.samples': 4,
                                     'render.fine': 0})
  training = build.training(config, build.make_mesh(config))
  before = training.init(jax.random.key(0))
  _, after, info = next(training.fit(jax.tree.map(jnp.copy, before), steps=1))
  assert all(np.isfinite(v) for v in jax.tree.leaves(info)) and info['residual_power'] > 0.
  assert any((a != b).any() for a, b in zip(jax.tree.leaves(before.params['scene']),
                                            jax.tree.leaves(after.params['scene'])))
  own = zip(jax.tree.leaves(before.params['est']), jax.tree.leaves(after.params['est']))
  assert name in ('csd', 'asd') or any((a != b).any() for a, b in own)


def any_size():
  """A prior of 8 x 8 latents that takes renders of all sizes, as those with an encoder do."""
  return gaussian(jnp.full((8, 8, 3), .5), std=.1).replace(
    encode_fn=lambda weights, x: jax.image.resize(x, (len(x), 8, 8, 3), 'linear'))


def staged(*stages):
  config = base.get_config()
  config.update_from_flattened_dict({
    'sampling.views': 1, 'mesh.data': 1, 'render.samples': 4, 'render.fine': 0,
    'render.stages': stages, 'steps_per_call': 2,
    'prior.name': f'{__name__}:any_size', 'scene.voxels.levels': (4, 6)})
  return config


@pytest.mark.slow
def test_renders_change_their_size_where_a_stage_begins():
  config = staged((0, 8), (4, 16))
  training = build.training(config, build.make_mesh(config))
  state = training.init(jax.random.key(0))
  calls, rays = training.fit(state, steps=6), []
  for before in (0, 2, 4):
    lowered = at_step(training.stages, before).lower(state, training.prior, training.text(before))
    rays.append(lowered.cost_analysis()['flops'])
    step, state, info = next(calls)
    assert step == int(state.step) == before + 2 and info['finite'] == 1.
  assert next(calls, None) is None
  assert rays[0] == pytest.approx(rays[1], rel=.01) and rays[1] < .5 * rays[2]


# option: (value, what of the first stage it must change)
REACHES = {
  'cameras.angular': (1., 'sample'), 'cameras.jitter': ((.1, .2, .02), 'sample'),
  'cameras.front_back': (10, 'sample'),
  'cameras.front': (30., 'render'), 'cameras.back': (30., 'render'),
  'render.normals': ('forward', 'render'), 'render.kind': ('normal', 'render'),
  'render.random_background': (.2, 'render'), 'render.light.distance': ((1.5, 2.), 'render'),
  'render.radius': (2., 'render'),
  'render.light.relative': (False, 'render'), 'render.light.jitter': (.1, 'render'),
  'render.light.normals': (True, 'render'),
  'scene.voxels.levels': ((4, 8), 'render'),
}


def traced(changes, *, config=None):
  """The first stage's samples and renders as they are traced, at these options: nothing is
  compiled."""
  config = config or staged((0, 8))
  config.update_from_flattened_dict({'render.background': 'environment', 'render.shaded': (1.,),
                                     'regularizers.orientation': (1.,)} | changes)
  training = build.training(config, build.make_mesh(config))
  parts, prior, key = training.parts, any_size(), jax.random.key(0)
  params = jax.eval_shape(training.init, key).params['scene']
  camera = jax.eval_shape(lambda: parts.sample(key, jnp.arange(1), 0))[0]
  render = lambda params, camera: parts.render_latents(params, prior, prior.embed(''), camera,
                                                       jax.random.split(key, 1), 0)[:3]
  text = {'sample': jax.make_jaxpr(lambda step: parts.sample(key, jnp.arange(1), step)[0])(0),
          'render': jax.make_jaxpr(render)(params, camera)}
  return {name: re.sub(r'0x[0-9a-f]+', '', str(jaxpr)) for name, jaxpr in text.items()}


@pytest.fixture(scope='module')
def plain():
  return traced({})


@pytest.mark.parametrize('option', REACHES)
def test_what_the_published_configs_need_reaches_the_step(option, plain):
  value, part = REACHES[option]
  there = traced({option: value})
  changed = {name for name in plain if plain[name] != there[name]}
  assert changed == {part}


def test_each_kind_of_normals_is_another(plain):
  assert len({plain['render'], *(traced({'render.normals': kind})['render']
                                  for kind in ('forward', 'central'))}) == 3


def test_a_map_that_reads_prompts_takes_a_generator():
  config = base.get_config()
  config.render.background = 'hypernet'
  with pytest.raises(ValueError,
                     match="config.render.background='hypernet'.*config.scene.name='voxels'"):
    build.training(config, build.make_mesh(config))


@pytest.mark.parametrize('option, value', [('jitter', (.1, 0., 0.)), ('front_back', 10)])
def test_rings_of_cameras_stay_as_they_are(option, value):
  config = base.get_config()
  config.sampling.design = 'rings'
  checks.check_views(config, 4)
  config.cameras[option] = value
  with refused(f'config.cameras.{option}='):
    checks.check_views(config, 4)


def test_outputs_show_the_ball_that_they_are_told_to():
  for radius, shown in ((0., 2.), (1.4, 1.4)):
    config = staged((0, 8))
    config.render.radius, config.eval.radius = 2., radius
    scene = build.make_scene(config).init(jax.random.key(0))
    assert build.model(config, str, (config.prompt,)).object(scene, config.prompt).radius == shown


def test_a_run_saved_before_these_options_is_what_it_was(plain, tmp_path):
  saved = staged((0, 8)).to_dict()
  for option in ('cameras.angular', 'cameras.jitter', 'cameras.front_back', 'cameras.front',
                 'cameras.back', 'eval.radius', 'render.random_background', 'render.light',
                 'render.normals', 'scene.particles', 'optim.accumulate'):
    section, _, name = option.partition('.')
    del saved[section][name]
  workdirs.claim(tmp_path, saved)
  assert plain == traced({}, config=options.restored(tmp_path))


def test_particles_have_an_optimizer_each():
  config = staged((0, 8))
  config.scene.particles = 3
  state = jax.eval_shape(build.training(config, build.make_mesh(config)).init, jax.random.key(0))
  counts = {leaf.shape for leaf in jax.tree.leaves(state.opt) if leaf.dtype == jnp.int32}
  assert counts == {(), (3,)}                      # steps that all have made, and each


@pytest.mark.parametrize('stages', [((2, 8),), ((0, 8), (3, 16)), ((0, 8), (4, 16), (4, 32))])
def test_stages_that_do_not_follow_one_another_are_refused(stages):
  config = staged(*stages)
  with pytest.raises(ValueError, match='config.render.stages=.*: takes .first step, pixels.'):
    build.training(config, build.make_mesh(config))


SIXTH = """
from jaxdreamer.estimators.sds import sds
def sixth(*, scale=1.):
  one = sds(guidance=1.)
  def residual(*args):
    r, info = one.residual(*args)
    return scale * r, info
  return one._replace(residual=residual)
"""


@pytest.mark.slow
def test_an_estimator_from_outside_the_package_is_named_in_a_config(tmp_path, monkeypatch):
  (tmp_path / 'mine.py').write_text(SIXTH)
  monkeypatch.syspath_prepend(tmp_path)
  config = base.get_config()
  config.estimator.name = 'mine:sixth'
  options.with_own(config).estimator.sixth.scale = 3.
  residuals = []
  for name in ('mine:sixth', 'sds'):
    config.estimator.name, config.estimator.sds.guidance = name, (1.,)
    parts = build.training(config, build.make_mesh(config)).parts
    prior = gaussian(jnp.zeros((2, 2, 1)), std=.5)
    draws = sampling.draws(jax.random.key(0), jnp.full((3, 1), .5), jnp.arange(3), t_min=.1,
                           t_max=.9, shape=(2, 2, 1))
    camera = jax.tree.map(jnp.asarray, cameras.orbit((3, .2)))
    views = conditioning.condition(prior.embed(''), camera)
    residuals.append(parts.estimator.residual(draws, (), prior, jnp.ones((3, 2, 2, 1)), views,
                                              0)[0])
  np.testing.assert_allclose(residuals[0], 3. * residuals[1], rtol=1e-6)
  config.estimator.name = 'mine:seventh'
  with pytest.raises(ValueError, match='config.estimator.name'):
    build.training(config, build.make_mesh(config))
