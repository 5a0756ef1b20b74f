"""Pictures against analytic scenes, invariances, and gradients."""
import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import cameras, render, volume
from jaxdreamer.scenes import fields
from jaxdreamer.scenes.voxels import voxels

FOV = math.radians(40.)
FRONT = cameras.orbital(0., 0., 3., FOV)
KEY = jax.random.key(0)
SCENE = voxels(levels=(5, 9), scale=1.)
PARAMS = SCENE.init(jax.random.key(1))
CODE = SCENE.prepare(PARAMS, None)


def fog(xyz):
  return jnp.float32(.8), jnp.array([.2, .4, .6])


def ball(xyz, center=0., size=.6):
  """A hard ball, colored by place."""
  return 300. * jax.nn.sigmoid(100. * (size - fields.length(xyz - center))), .5 + .5 * jnp.tanh(
      2. * xyz)


image = partial(jax.jit, static_argnums=1, static_argnames=('size', 'samples', 'fine', 'jitter',
                                                            'background', 'shade'))(render.image)
draw = partial(image, size=16, samples=96)


def test_fog_in_the_ball_is_as_opaque_as_its_chord_is_long():
  out = image(KEY, fog, FRONT, size=16, samples=8)
  rays = cameras.rays(FRONT, 16)
  near, far = jax.vmap(jax.vmap(partial(volume.ball_interval, radius=1.)))(rays.origin,
                                                                           rays.direction)
  hit = 1. - jnp.exp(-.8 * (far - near))
  np.testing.assert_allclose(out.opacity, hit, atol=1e-5)
  color = hit[..., None] * jnp.array([.2, .4, .6])[None, None] + (1. - hit[..., None])
  np.testing.assert_allclose(out.rgb, color, atol=1e-5)


def test_rays_that_miss_the_ball_show_the_background():
  out = image(KEY, fog, FRONT, size=16, samples=8, fine=8,
              background=lambda direction: jnp.array([.1, .5, .3]))
  assert out.opacity[0, 0] == 0.
  np.testing.assert_allclose(out.rgb[0, 0], [.1, .5, .3], atol=1e-6)
  np.testing.assert_allclose(out.depth[0, 0], 4., rtol=1e-5)


@pytest.mark.slow
def test_depth_and_normal_of_a_ball_are_those_of_its_surface():
  out = image(KEY, ball, FRONT, size=17, samples=64, fine=64)
  rays = cameras.rays(FRONT, 17)
  near, _ = jax.vmap(jax.vmap(partial(volume.ball_interval, radius=.6)))(rays.origin,
                                                                         rays.direction)
  inner = np.asarray(out.opacity > .999) & (np.hypot(*np.mgrid[-8:9, -8:9]) < 4.)
  assert inner.sum() > 40
  np.testing.assert_allclose(out.depth[inner], near[inner], atol=.03)
  surface = rays.origin + near[..., None] * rays.direction
  np.testing.assert_allclose(out.normal[inner], (surface / .6)[inner], atol=.05)
  assert out.orientation[inner].max() < 1e-3                       # it is seen from outside
  assert out.z_variance[inner].max() < 1e-3 and out.distortion[inner].max() < .015


@pytest.mark.parametrize('angle', [.4, 2.])
def test_rotating_scene_and_camera_together_changes_nothing(angle):
  turn = jnp.array([[math.cos(angle), -math.sin(angle), 0.], [math.sin(angle), math.cos(angle), 0.],
                    [0., 0., 1.]])
  field = partial(SCENE.field, CODE)
  still = draw(KEY, field, cameras.orbital(.3, .5, 3., FOV))
  turned = draw(KEY, lambda xyz: field(turn.T @ xyz), cameras.orbital(.3 + angle, .5, 3., FOV))
  for name in ('rgb', 'opacity', 'depth', 'orientation', 'distortion', 'z_variance'):
    np.testing.assert_allclose(getattr(turned, name), getattr(still, name), atol=2e-3, err_msg=name)
  np.testing.assert_allclose(turned.normal, still.normal @ turn.T, atol=5e-3)


def test_what_stands_on_the_right_is_drawn_on_the_right_and_up_is_up():
  field = partial(ball, center=jnp.array([0., .5, .5]), size=.3)
  opacity = draw(KEY, field, FRONT).opacity
  assert opacity[:8, 8:].sum() > .98 * opacity.sum() > 0.


def test_importance_samples_need_fewer_points_for_the_same_picture():
  truth = image(KEY, ball, FRONT, size=16, samples=512, jitter=0.).rgb
  error = lambda **kw: float(jnp.mean((image(KEY, ball, FRONT, size=16, **kw).rgb - truth) ** 2))
  assert error(samples=24, fine=24) < .5 * error(samples=48)


def test_jitter_of_nothing_ignores_the_key():
  field = partial(SCENE.field, CODE)
  shots = [image(jax.random.key(seed), field, FRONT, size=8, samples=8, fine=8, jitter=0.).rgb
           for seed in (0, 1)]
  np.testing.assert_array_equal(*shots)


@pytest.mark.slow
@pytest.mark.parametrize('options', [dict(chunk=7), dict(chunk=64), dict(remat=True),
                                     dict(chunk=16, remat=True)])
def test_chunks_and_rematerialization_change_nothing(options):
  def loss(params, **kw):
    out = render.image(KEY, partial(SCENE.field, SCENE.prepare(params, None)), FRONT, size=8,
                       samples=6, fine=6, **kw)
    return jnp.sum(out.rgb ** 2) + jnp.sum(out.distortion)
  plain, other = (jax.jit(jax.value_and_grad(partial(loss, **kw)))(PARAMS) for kw in ({}, options))
  chex.assert_trees_all_close(plain, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_gradients_agree_with_finite_differences_along_random_directions():
  camera = cameras.orbital(.4, .2, 3., FOV)
  def loss(params):
    out = render.image(KEY, partial(SCENE.field, SCENE.prepare(params, None)), camera,
                       size=6, samples=12)
    return jnp.mean(out.rgb ** 2) + jnp.mean(out.distortion) + jnp.mean(out.opacity)
  loss = jax.jit(loss)
  grad = jax.jit(jax.grad(loss))(PARAMS)
  for seed in range(3):
    keys = iter(jax.random.split(jax.random.key(seed), len(PARAMS)))
    direction = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), PARAMS)
    at = lambda h: float(loss(jax.tree.map(lambda p, d: p + h * d, PARAMS, direction)))
    slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(grad), jax.tree.leaves(direction)))
    np.testing.assert_allclose((at(1e-2) - at(-1e-2)) / 2e-2, slope, rtol=.03, atol=1e-3)


@pytest.mark.parametrize('raw', [-200., 0., 1e4])
@pytest.mark.parametrize('fine', [0, 6])
def test_gradients_are_finite_in_vacuum_and_in_solids_with_light_and_every_regularizer(raw, fine):
  light = render.Light(jnp.array([3., 1., 1.]), jnp.float32(.1), jnp.float32(.9), jnp.float32(0.))
  def loss(params):
    out = render.image(KEY, partial(SCENE.field, SCENE.prepare(params, None)), FRONT, size=6,
                       samples=6, fine=fine,
                       shade=partial(render.lit, light))
    return sum(jnp.sum(v) for v in out if v is not None)
  params = jax.tree.map(lambda p: p.at[..., 0].set(raw), PARAMS)
  chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(loss))(params))


def test_light_follows_lamberts_law():
  albedo, up, here = jnp.array([.2, .5, .8]), jnp.array([0., 0., 1.]), jnp.zeros(3)
  for angle in (0., 1., 2.):
    light = render.Light(5. * jnp.array([math.sin(angle), 0., math.cos(angle)]), jnp.float32(.1),
                         jnp.float32(.9),
                         jnp.float32(0.))
    np.testing.assert_allclose(render.lit(light, albedo, up, here),
                               albedo * (.1 + .9 * max(math.cos(angle), 0.)), rtol=1e-5)
  plain = light._replace(textureless=jnp.float32(1.))
  np.testing.assert_allclose(render.lit(plain, albedo, up, here), .1, rtol=1e-5)


def test_a_fully_ambient_light_shows_the_albedo():
  light = render.Light(jnp.array([3., 1., 1.]), jnp.float32(1.), jnp.float32(0.), jnp.float32(0.))
  field = partial(SCENE.field, CODE)
  lit = image(KEY, field, FRONT, size=8, samples=8, shade=partial(render.lit, light)).rgb
  np.testing.assert_allclose(lit, image(KEY, field, FRONT, size=8, samples=8).rgb, atol=1e-5)


def test_sampled_lights_are_shaded_and_textureless_as_often_as_asked():
  lights = jax.vmap(lambda k: render.sample_light(k, FRONT, shaded=.75, textureless=.5))(
      jax.random.split(KEY, 2000))
  spread = 4. * math.sqrt(.25 / 2000)
  assert abs((lights.diffuse > .5).mean() - .75) < spread
  assert abs(lights.textureless.mean() - .375) < spread
  np.testing.assert_allclose(lights.ambient + lights.diffuse, 1., rtol=1e-6)
  far = jnp.linalg.norm(lights.position, axis=-1) / 3.
  assert .8 <= far.min() and far.max() <= 1.5


def test_a_lamp_stands_as_far_as_asked_and_as_near_to_the_camera():
  def lamps(camera, **options):
    made = jax.vmap(lambda k: render.sample_light(k, camera, **options).position)(
        jax.random.split(KEY, 500))
    far = np.linalg.norm(made, axis=-1)
    return far, np.asarray(made) / far[:, None]
  far, toward = lamps(FRONT, distance=(1.5, 2.), relative=False, jitter=.1)
  assert 1.5 <= far.min() < 1.55 and 1.95 < far.max() <= 2.
  np.testing.assert_allclose(np.std(toward[:, 1:], axis=0), .1 / 3., rtol=.1)  # seen from 3 away
  np.testing.assert_allclose(toward[:, 0], 1., atol=.02)
  relative, same = lamps(FRONT, distance=(1.5, 2.), jitter=.1)
  np.testing.assert_allclose(relative, 3. * far, rtol=1e-5)
  np.testing.assert_allclose(same, toward, atol=1e-5)


def test_textureless_views_may_show_normals_as_colors():
  always = partial(render.sample_light, KEY, FRONT, shaded=1., textureless=1.)
  normal, here = jnp.array([.6, 0., -.8]), jnp.zeros(3)
  np.testing.assert_allclose(render.lit(always(normals=True), jnp.array([.2, .5, .8]), normal,
                                        here), [.8, .5, .1], rtol=1e-6)
  for colored in (render.sample_light(KEY, FRONT, shaded=0., textureless=1., normals=True),
                   render.sample_light(KEY, FRONT, shaded=1., textureless=0., normals=True)):
    plain = colored._replace(normals=None)
    np.testing.assert_array_equal(*(render.lit(light, jnp.array([.2, .5, .8]), normal, here)
                                    for light in (colored, plain)))
  assert always().normals is None
  out = image(KEY, ball, FRONT, size=16, samples=64,
              shade=partial(render.lit, always(normals=True)),
              background=lambda direction: jnp.full(3, .5))
  np.testing.assert_allclose(out.rgb, .5 + .5 * out.normal, atol=1e-5)


def test_unused_normals_cost_no_operation():
  def operations(shade):
    def f(params):
      field = partial(SCENE.field, SCENE.prepare(params, None))
      return jnp.sum(render.image(KEY, field, FRONT, size=8, samples=8, shade=shade).rgb)
    return jax.jit(jax.grad(f)).lower(PARAMS).compile().cost_analysis()['flops']
  def without(params):
    blind = lambda field, xyz: (*field(xyz), jnp.zeros(3))
    field = partial(SCENE.field, SCENE.prepare(params, None))
    return jnp.sum(render.image(KEY, field, FRONT, size=8, samples=8, normals=blind).rgb)
  bare = jax.jit(jax.grad(without)).lower(PARAMS).compile().cost_analysis()['flops']
  lit = partial(render.lit, render.sample_light(KEY, FRONT))
  assert operations(render.unlit) < 1.02 * bare < operations(lit)
