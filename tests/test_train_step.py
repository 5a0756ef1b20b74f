"""The step: what the pullback computes, and that devices change nothing."""
import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdreamer import (
  cameras,
  conditioning,
  optim,
  parallel,
  processes,
  render,
  sampling,
  train_step,
)
from jaxdreamer.diffusion import cosine, perp_neg_texts
from jaxdreamer.estimators.sds import sds
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.scenes import image
from jaxdreamer.scenes.voxels import voxels
from jaxdreamer.training import Parts
from jaxdreamer.types import TrainState

SIZE, VIEWS = 8, 4
DRAW = dict(noise=cosine(), t_min=.02, t_max=.98, shape=(SIZE, SIZE, 3))
RANGES = dict(azimuth=(-math.pi, math.pi), elevation=(-.2, 1.), distance=(2.8, 3.3), fov=(.7, .7))


def make_render_latents(scene):
  return train_step.make_render_latents(
    scene=scene, regularize=lambda rendering, i: .1 * jnp.mean(rendering.opacity),
    render=lambda code, camera, key, step: render.image(key, partial(scene.field, code), camera,
                                                        size=SIZE, samples=8))


def make_parts(*, estimator=None, tx=None, dims=1, wrap=lambda render_latents: render_latents):
  """What a step on voxels is made of, its render_latents wrapped."""
  estimator = estimator or sds(guidance=2.)
  # A large eps: the direction of Adam's step for a vanishing gradient is no measure.
  tx = tx or optim.chain((('scene/.*', .01), ('est/.*', .01)), eps=1e-3)
  render_latents = wrap(make_render_latents(voxels(levels=(5, 9))))
  sample = sampling.make_sample(views=VIEWS, design=sampling.stratified,
                                draw=sampling.make_draw(**DRAW), dims=dims,
                                camera_from=partial(cameras.from_uniform, **RANGES))
  return Parts(estimator, sample, render_latents, train_step.make_gradient(
    render_latents=render_latents, estimator=estimator), tx)


def begun(parts):
  """(first state, prior, text) of `parts`."""
  prior = gaussian(jnp.zeros((SIZE, SIZE, 3)).at[2:6, 2:6, 0].set(1.), std=.3)
  params = {'scene': voxels(levels=(5, 9)).init(jax.random.key(0)),
            'est': parts.estimator.init(jax.random.key(1), prior)}
  return (TrainState(jnp.int32(0), params, parts.tx.init(params), jax.random.key(2)), prior,
          prior.embed(''))


def setup(**override):
  """(local step, state, prior, text)."""
  parts = make_parts(**override)
  return (train_step.make_local_step(sample=parts.sample, gradient=parts.gradient, tx=parts.tx),
          *begun(parts))


def ran(local_step, state, prior, text, *, devices=1, how='shard_map', calls=3):
  """(state, info) after so many calls."""
  mesh = processes.make_mesh(VIEWS, data=devices, ring=1, how='shard_map')
  step = parallel.data_parallel(local_step, mesh, how=how)
  state = jax.tree.map(jnp.copy, state)                # the state is donated
  if how == 'shard_map':
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
  for _ in range(calls):
    state, info = step(state, prior, text, jnp.arange(VIEWS))
  return jax.device_get((state, info))


def run(local_step, state, prior, text, *, devices, how='shard_map', steps=20):
  state, info = ran(local_step, state, prior, text, devices=devices, how=how, calls=steps)
  return state.params, info


@pytest.mark.slow
@pytest.mark.parametrize(('devices', 'how', 'draws'), [(4, 'shard_map', 1), (4, 'pmap', 1),
                                                       (1, 'pmap', 1), (4, 'shard_map', 3)])
def test_devices_and_the_kind_of_map_do_not_change_the_result(devices, how, draws):
  parts = setup(dims=draws)
  want, info = run(*parts, devices=1)
  got, info2 = run(*parts, devices=devices, how=how)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), want, got)
  for name in info:
    np.testing.assert_allclose(info[name], info2[name], rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_step_on_a_single_device_is_that_of_a_mesh_of_one():
  local_step, state, prior, text = setup()
  want, info = run(local_step, state, prior, text, devices=1, steps=3)
  step = parallel.single_device(local_step, views=VIEWS)
  for _ in range(3):
    state, said = step(state, prior, text)
  chex.assert_trees_all_equal(jax.device_get((state.params, said)), (want, info))
  assert int(state.step) == 3


def test_the_step_is_traced_once_over_many_calls():
  chex.clear_trace_counter()
  local_step, *rest = setup()
  run(chex.assert_max_traces(local_step, n=1), *rest, devices=2, steps=3)


@pytest.mark.slow
def test_the_pullback_is_the_gradient_of_residual_times_rendering_plus_regularizer():
  tx_seen = {}
  def spy():
    def update(grads, state, params):
      tx_seen['grads'] = grads
      return jax.tree.map(jnp.zeros_like, grads), state
    import optax
    return optax.GradientTransformation(lambda params: (), update)
  local_step, state, prior, text = setup(tx=spy())
  seen = {}
  def body(state, prior, text, ids):
    new, info = local_step(state, prior, text, ids)
    return tx_seen['grads'], info
  mesh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
  P = PartitionSpec
  seen, _ = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=(P(), P(), P(), P('data')),
                                  out_specs=(P(), P())))(
state, prior, text, jnp.arange(VIEWS))

  key = jax.random.fold_in(state.key, 0)
  k_where, k_draw, k_render = jax.random.split(key, 3)
  ids = jnp.arange(VIEWS)
  u = sampling.stratified(k_where, ids, views=VIEWS, dims=5)
  camera = jax.vmap(partial(cameras.from_uniform, **RANGES))(u[:, :4])
  scene = voxels(levels=(5, 9))
  draws = sampling.make_draw(**DRAW)(k_draw, u[:, 4:], ids, 0)
  def pictures(params):
    field = partial(scene.field, scene.prepare(params, None))
    return jax.vmap(lambda c, k: render.image(k, field, c, size=SIZE, samples=8))(
      camera, sampling.by_view(k_render, ids))
  views = conditioning.condition(text, camera)
  r, _ = sds(guidance=2.).residual(draws, (), prior, pictures(state.params['scene']).rgb,
                                      views, 0)
  r = prior.schedule.sigma(draws.t)[:, None, None, None] ** 2 * r
  def surrogate(params):  # the fake loss that other libraries use: its gradient is the same
    seen = pictures(params)
    return jnp.sum(r * seen.rgb) / VIEWS + .1 * jnp.mean(seen.opacity)
  want = jax.jit(jax.grad(surrogate))(state.params['scene'])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), want,
               seen['scene'])


@pytest.mark.slow
def test_the_draws_of_a_view_act_as_their_mean_would():
  local_step, state, prior, text = setup(dims=3)
  gradient = jax.jit(train_step.make_gradient(
    render_latents=make_render_latents(voxels(levels=(5, 9))), estimator=sds(guidance=2.)))
  camera = jax.vmap(partial(cameras.from_uniform,
                            **RANGES))(jax.random.uniform(jax.random.key(3), (2, 4)))
  keys = jax.random.split(jax.random.key(4), 2)
  draws = sampling.make_draw(**DRAW)(jax.random.key(5),
                                     jax.random.uniform(jax.random.key(6), (2, 3)),
                                     jnp.arange(2), 0)
  grads, _ = gradient(state.params, prior, text, camera, draws, keys, 0)
  alone = []
  for view in range(2):
    for j in range(3):
      one = jax.tree.map(lambda a: a[3 * view + j:3 * view + j + 1], draws)
      at = jax.tree.map(lambda a: a[view:view + 1], camera)
      g, _ = gradient(state.params, prior, text, at, one, keys[view:view + 1], 0)
      alone.append(g['scene'])
  mean = jax.tree.map(lambda *g: sum(g) / 6, *alone)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), mean, grads['scene'])


@pytest.mark.slow
def test_an_estimators_own_parameters_are_trained_by_its_own_loss():
  base = sds(guidance=1.)
  estimator = base._replace(init=lambda key, prior: {'mu': jnp.float32(1.)},
                            loss=lambda draws, est, *_: (est['mu'] - 3.) ** 2)
  local_step, state, prior, text = setup(estimator=estimator)
  params, info = run(local_step, state, prior, text, devices=1, steps=30)
  assert params['est']['mu'] > 1.25 and info['estimator_loss'] < 4.


def test_view_words_follow_the_camera():
  _, _, prior, _ = setup()
  rows = jnp.arange(4.)[:, None, None]
  text = prior.embed('')._replace(views=rows)
  camera = jax.vmap(lambda a, e: cameras.orbital(a, e, 3.,
                                                 .7))(jnp.radians(jnp.array([0., 90., 180., 0.])),
                                                   jnp.radians(jnp.array([0., 0., 0., 80.])))
  views = conditioning.condition(text, camera)
  np.testing.assert_array_equal(views.text[:, 0, 0], [0., 1., 2., 3.])


def test_where_the_view_words_change_can_be_told():
  _, _, prior, _ = setup()
  text = prior.embed('')._replace(views=jnp.arange(4.)[:, None, None])
  camera = jax.vmap(lambda a: cameras.orbital(a, 0., 3.,
                                              .7))(jnp.radians(jnp.array([0., 40., 140., 180.])))
  narrow = partial(cameras.view_bin, front=math.radians(30.), back=math.radians(35.))
  several = jax.tree.map(lambda a: jnp.stack([a, a]), text)
  row = lambda text, **options: conditioning.condition(text, camera, **options).text[:, 0, 0]
  np.testing.assert_array_equal(row(text, words=narrow), [0., 1., 1., 2.])
  np.testing.assert_array_equal(row(several, words=narrow), [0., 1., 1., 2.])
  np.testing.assert_array_equal(row(text), [0., 0., 2., 2.])


@pytest.mark.slow
def test_perp_neg_is_made_for_each_view_of_one_prompt_or_many():
  """As perp_neg_texts makes it of one view, its weights scaled; each draw of a view repeats it."""
  _, _, prior, _ = setup()
  text = prior.embed('')._replace(views=jnp.arange(4.)[:, None, None])
  camera = jax.vmap(lambda a: cameras.orbital(a, 0., 3., .7))(jnp.array([.4, .9, 2., 3.]))
  several = jax.tree.map(lambda a: jnp.stack([a, a]), text)
  for many in (text, several):
    views = conditioning.condition(many, camera, perp_neg=3.)
    for i in range(4):
      own, others, weights = perp_neg_texts(text.views, camera.azimuth[i], camera.elevation[i])
      np.testing.assert_allclose(views.text[i], own, rtol=1e-6)
      np.testing.assert_allclose([other[i] for other in views.perp_neg.texts], others)
      np.testing.assert_allclose(views.perp_neg.weights[i], 3. * weights, rtol=1e-6)
  assert conditioning.condition(text, camera).perp_neg.texts == ()


def test_each_camera_moves_by_a_key_of_its_own_and_nothing_else_changes():
  parts = dict(design=sampling.stratified, draw=sampling.make_draw(**DRAW), views=VIEWS, dims=1,
               camera_from=partial(cameras.from_uniform, **RANGES))
  shift = lambda key, camera, step: camera._replace(fov=step + jax.random.uniform(key))
  still, moved = sampling.make_sample(**parts), sampling.make_sample(**parts, move=shift)
  key, ids = jax.random.key(3), jnp.arange(VIEWS)
  numbers = lambda made: (*made[:1], made[1]._replace(key=jax.random.key_data(made[1].key)),
                          jax.random.key_data(made[2]))
  before, after, half = jax.jit(lambda: tuple(map(numbers, (still(key, ids, 7), moved(key, ids, 7),
                                                            moved(key, ids[2:], 7)))))()
  fov = after[0].fov
  assert len(set(np.asarray(fov))) == VIEWS and ((fov >= 7.) & (fov < 8.)).all()
  jax.tree.map(np.testing.assert_array_equal, (after[0]._replace(fov=before[0].fov), *after[1:]),
               before)
  np.testing.assert_array_equal(half[0].fov, fov[2:])                  # whatever device it is on


def test_a_prior_that_draws_its_latents_draws_for_each_view_and_passes_the_gradient_on():
  prior = gaussian(jnp.zeros((6, 6, 3)), std=.5)
  noisy = prior.replace(sample_fn=lambda weights, keys, x: x
                        + jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys))
  render_latents = train_step.make_render_latents(
    scene=image.image(size=6), render=lambda code, camera, key, step: image.picture(code),
    regularize=lambda rendering, step: jnp.mean(rendering.opacity))
  params = {'image': jax.random.normal(jax.random.key(5), (6, 6, 3))}
  camera = jax.vmap(lambda a: cameras.orbital(a, 0., 3., .7))(jnp.array([0., 0.]))
  def latents(prior, keys):
    z, _, _, pullback = render_latents(params, prior, prior.embed(''), camera, keys, 0)
    return z, pullback(jnp.ones_like(z), jnp.zeros(()))['image']
  keys = jax.random.split(jax.random.key(4), 2)
  (z, slope), (drawn, same), (turned, _) = jax.jit(lambda: (
    latents(prior, keys), latents(noisy, keys), latents(noisy, keys[::-1])))()
  noise = np.asarray(drawn - z)
  assert .8 < noise.std() < 1.2 and abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < .3
  np.testing.assert_array_equal(turned, drawn[::-1])                   # by the key of the view
  np.testing.assert_allclose(same, slope, rtol=1e-5)


PROMPTS = 4


def generator():
  """A scene whose code is a linear function of the prompt."""
  grid = voxels(levels=(5,))
  def init(key):
    return {'w': .1 * jax.random.normal(key, (PROMPTS, 5, 5, 5, 4))}
  def prepare(params, y):
    return grid.prepare({'grid_5': jnp.tensordot(y.pooled, params['w'], 1)}, y)
  return grid._replace(init=init, prepare=prepare)


def amortised():
  """`setup` with PROMPTS prompts, one view each."""
  scene, (_, _, prior, text) = generator(), setup()
  gradient = train_step.make_gradient(render_latents=make_render_latents(scene),
                                      estimator=sds(guidance=2.))
  tx = optim.chain((('scene/.*', .01), ('est/.*', .01)), eps=1e-3)
  params = {'scene': scene.init(jax.random.key(0)), 'est': ()}
  text = jax.tree.map(lambda a: jnp.broadcast_to(a, (PROMPTS, *a.shape)),
                      text)._replace(pooled=jnp.eye(PROMPTS))
  sample = sampling.make_sample(views=VIEWS, design=sampling.stratified,
                                  draw=sampling.make_draw(**DRAW), dims=1,
                                  camera_from=partial(cameras.from_uniform, **RANGES))
  local_step = train_step.make_local_step(sample=sample, gradient=gradient, tx=tx)
  return local_step, gradient, TrainState(jnp.int32(0), params, tx.init(params),
                                          jax.random.key(2)), prior, text


@pytest.mark.slow
@pytest.mark.parametrize('how', ['shard_map', 'pmap'])
def test_prompts_are_shared_out_over_devices_without_a_change_of_the_result(how):
  local_step, _, state, prior, text = amortised()
  seen = []
  for devices in (1, 4):
    mesh = jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,),
                         devices=jax.devices()[:devices])
    step, at = parallel.data_parallel(local_step, mesh, how=how,
                                        many=True), jax.tree.map(jnp.copy, state)
    for _ in range(20):
      at, _ = step(at, prior, text, jnp.arange(VIEWS))
    seen.append(jax.device_get(at.params))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *seen)


@pytest.mark.slow
def test_the_gradient_of_many_prompts_is_the_mean_of_theirs_and_none_leaks_into_another():
  _, gradient, state, prior, text = amortised()
  gradient = jax.jit(gradient)
  camera = jax.vmap(partial(cameras.from_uniform,
                            **RANGES))(jax.random.uniform(jax.random.key(3), (2 * PROMPTS, 4)))
  keys, ids = jax.random.split(jax.random.key(4), 2 * PROMPTS), jnp.arange(2 * PROMPTS)
  draws = sampling.make_draw(**DRAW)(jax.random.key(5),
                                     jax.random.uniform(jax.random.key(6), (2 * PROMPTS, 1)), ids,
                                     0)
  together, _ = gradient(state.params, prior, text, camera, draws, keys, 0)
  alone = []
  for p in range(PROMPTS):
    own = lambda tree: jax.tree.map(lambda a: a[2 * p:2 * p + 2], tree)
    g, _ = gradient(state.params, prior, jax.tree.map(lambda a: a[p], text), own(camera),
                    own(draws), own(keys), 0)
    alone.append(g['scene']['w'])
    assert (np.delete(np.asarray(g['scene']['w']), p, 0) == 0.).all()  # its pooled row is one-hot
  np.testing.assert_allclose(together['scene']['w'], sum(alone) / PROMPTS, atol=2e-6)
