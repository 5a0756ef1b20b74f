"""Prompt-amortised generators: VolSDF, published sizes, independent prompts, and slow
references."""
import functools
import itertools
import math
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats

from configs import scaledreamer_amortised as published
from jaxdreamer import build, cameras, regularizers, render
from jaxdreamer.scenes import backgrounds, conv3d, fields, image, particles, volsdf
from jaxdreamer.scenes import triplane_transformer as triplane
from jaxdreamer.scenes.hyper_ingp import hyper_ingp
from jaxdreamer.scenes.triplane_transformer import triplane_transformer
from jaxdreamer.types import Text

WORDS, WIDTH = 3, 6
SIZES = {
  'hyper_ingp': dict(text=WIDTH, levels=2, log2_table=8, base=3, finest=12, width=8,
                     hidden=4, radius=.5),
  'conv3d': dict(text=WIDTH, channels=(4, 3), features=3, width=5, mapped=8, hidden=8,
                 radius=.8),
  'triplane_transformer': dict(text=WIDTH, tokens=2, width=8, blocks=1, heads=2,
                               features=2, hidden=8, radius=.8),
}
SCENES = {name: make(**SIZES[name]) for name, make in (
  ('hyper_ingp', hyper_ingp), ('conv3d', conv3d.conv3d), ('triplane_transformer',
                                                          triplane_transformer))}
every_scene = pytest.mark.parametrize('name', sorted(SCENES))
POINT = jnp.array([.13, -.47, .31])


def prompts(n):
  """n prompts at random."""
  normal = lambda i, *shape: jax.random.normal(jax.random.key(i), (n, *shape))
  plain = normal(0, WORDS, WIDTH)
  return Text(jnp.stack([plain] * 4, 1), plain, plain, plain, pooled=normal(1, WIDTH),
              noise=normal(2, 64))


def prompt():
  return jax.tree.map(lambda a: a[0], prompts(1))


def trained(name):
  """Parameters away from the start, where last layers are small and biases 0."""
  params = jax.jit(SCENES[name].init)(jax.random.key(0))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return jax.tree.unflatten(tree, [p + .3 * jax.random.normal(k, p.shape)
                                   for k, p in zip(keys, leaves)])


@functools.cache
def together(name):
  return jax.jit(jax.vmap(SCENES[name].prepare, (None, 0)))


def size(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def at(name, params, y, xyz=POINT):
  """The raw field of one prompt at one point, where density does not saturate: [distance,
  features]."""
  code = SCENES[name].prepare(params, y)
  return jnp.concatenate([SCENES[name].distance(code, xyz)[None], SCENES[name].field(code, xyz)[1]])


def test_density_is_the_laplace_distribution_of_the_depth_below_the_surface():
  distance = jnp.linspace(-.5, .5, 41)
  density = jax.vmap(volsdf.density)(distance)
  np.testing.assert_allclose(density, 30. * stats.laplace.cdf(-np.asarray(distance),
                                                              scale=1. / 30.), rtol=1e-5)
  np.testing.assert_allclose(volsdf.density(jnp.float32(-1.)), 30., rtol=1e-6)           # inside
  assert volsdf.density(jnp.float32(1.)) < 1e-10                                         # outside
  slope = jax.vmap(jax.grad(volsdf.density))(distance)
  np.testing.assert_allclose(slope, -900. * stats.laplace.pdf(distance, scale=1. / 30.) / 30.,
                             rtol=1e-5)


def test_a_wide_sigmoid_reaches_black_and_white():
  low, middle, high = volsdf.wide_sigmoid(jnp.array([-8., 0., 8.]))
  assert -.001 <= low < 0. and middle == .5 and 1. < high <= 1.001


def test_hyper_ingp_of_the_published_size_has_its_parameters():
  params = jax.eval_shape(hyper_ingp(**published.INGP).init, jax.random.key(0))
  np.testing.assert_allclose([size(params['tables']), size(params['hypernet'])], [12.60e6, .349e6],
                             rtol=.01)


def test_conv3d_of_the_published_sizes_has_their_parameters():
  small, large = (jax.eval_shape(conv3d.conv3d(**sizes).init, jax.random.key(0))
                  for sizes in (published.CONV3D, published.LARGER))
  np.testing.assert_allclose([size(small), size(large)], [88.7e6, 144.8e6], rtol=.01)
  maps = [leaf for path, leaf in jax.tree.leaves_with_path(small) if 'map' in str(path[-1])
          or 'constant' in str(path[-1])]
  np.testing.assert_allclose(size(maps), 44.3e6, rtol=.01)


def test_the_triplane_transformer_of_the_published_size_has_its_parameters():
  params = jax.eval_shape(triplane_transformer(**published.TRIPLANE).init, jax.random.key(0))
  np.testing.assert_allclose(size(params), 120.5e6, rtol=.01)


def test_the_planes_of_a_transformer_begin_smooth():
  tokens = triplane.waves(jax.random.key(0), (1, 3 * 16 ** 2, 512)).reshape(3, 16, 16, 512)
  np.testing.assert_allclose(jnp.mean(tokens ** 2), 1., rtol=.05)
  far = jnp.mean(tokens[:, :-1] * tokens[:, 1:])  # of neighbors: exp(-(frequency * spacing)^2 / 2)
  np.testing.assert_allclose(far, np.exp(-.5 * (triplane.FREQUENCY * 2 / 16) ** 2), rtol=.05)
  np.testing.assert_allclose(jnp.mean(tokens[0] * tokens[1]), 0., atol=.02)


@pytest.mark.slow
def test_upsampling_is_a_transposed_convolution_and_begins_as_linear_interpolation():
  x, layer = jax.random.normal(jax.random.key(0), (3, 5, 5, 64)), triplane.Upsample(16, 4)
  params = layer.init(jax.random.key(1), x)
  nodes = layer.apply(params, x)
  turned = {'params': {'kernel': params['params']['kernel'][::-1, ::-1]
                       + jax.random.normal(jax.random.key(2), (8, 8, 64, 16))}}
  learned = {'params': {'kernel': turned['params']['kernel'][::-1, ::-1]}}
  slow = nn.ConvTranspose(16, (8, 8), (4, 4), use_bias=False).apply(turned, x)
  np.testing.assert_allclose(layer.apply(learned, x), slow, rtol=1e-4, atol=1e-4)
  # the tent is 7/8 at the nodes next to its middle
  matrix = params['params']['kernel'][3, 3] / (7 / 8) ** 2
  np.testing.assert_allclose(jnp.var(matrix) * 64, 1., rtol=.2)
  smooth = jax.image.resize(x, (3, 20, 20, 64), 'linear') @ matrix
  np.testing.assert_allclose(nodes[:, 2:-2, 2:-2], smooth[:, 2:-2, 2:-2], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_transformer_reads_words_of_any_scale():
  params, y = trained('triplane_transformer'), prompt()
  scaled = y._replace(plain=30. * y.plain)
  np.testing.assert_allclose(at('triplane_transformer', params, scaled),
                             at('triplane_transformer', params, y), atol=1e-4)


def slow_modulated(x, kernel, style):
  """A kernel of this prompt, tap by tap."""
  kernel = kernel * style[:, None]
  kernel = kernel / np.sqrt((kernel ** 2).sum((0, 1, 2, 3)) + 1e-8)
  n, padded = len(x), np.pad(x, [(1, 1)] * 3 + [(0, 0)])
  return sum(padded[a:a + n, b:b + n, c:c + n] @ kernel[a, b, c]
             for a, b, c in itertools.product(range(3), repeat=3))


def test_modulated_convolution_is_convolution_by_a_kernel_for_each_prompt():
  normal = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
  x, kernel, style = normal(0, 3, 5, 5, 5, 4), normal(1, 3, 3, 3, 4, 6), normal(2, 3, 4)
  fast = jax.vmap(conv3d.modulated, (0, None, 0))(x, kernel, style)
  slow = [slow_modulated(np.asarray(a), np.asarray(kernel), np.asarray(s))
          for a, s in zip(x, style)]
  np.testing.assert_allclose(fast, slow, atol=1e-5)


def slow_linear(grid, place):
  """The sum over all nodes of their hat functions."""
  for v in place:
    n = len(grid)
    hat = np.maximum(1. - np.abs((np.clip(v, -1., 1.) + 1.) / 2. * (n - 1) - np.arange(n)), 0.)
    grid = np.tensordot(hat, grid, (0, 0))
  return grid


@pytest.mark.parametrize('name, shape, axes', [('conv3d', (8, 8, 8, 3), [[0, 1, 2]]),
                                               ('triplane_transformer', (3, 4, 4, 2),
                                                [[0, 1], [0, 2], [1, 2]])])
def test_a_look_up_is_the_sum_of_hat_functions_over_all_nodes(name, shape, axes):
  grid = jax.random.normal(jax.random.key(5), shape)
  planes = np.asarray(grid).reshape(len(axes), *shape[-1 - len(axes[0]):])
  kernel = jax.random.normal(jax.random.key(6), (len(axes) * shape[-1], 1))
  # one kernel: the distance is linear in features
  code = {'volume': grid, 'planes': grid, 'sdf': [kernel]}
  fast = jax.jit(partial(SCENES[name].distance, code))
  for xyz in np.asarray(jax.random.uniform(jax.random.key(7), (10, 3), minval=-1.2, maxval=1.2)):
    slow = np.concatenate([slow_linear(plane, xyz[place]) for plane, place in zip(planes, axes)])
    np.testing.assert_allclose(fast(xyz), slow @ kernel[:, 0] + np.linalg.norm(xyz) - .8, atol=1e-5)


def test_the_learned_map_is_added_after_the_activation_and_starts_at_its_share_of_unit_variance():
  layer, bare = (conv3d.SynthesisLayer(100, 4, learned_map) for learned_map in (True, False))
  x, w, key = jax.random.normal(jax.random.key(0), (2, 2, 2, 3)), jnp.ones(5), jax.random.key(1)

  @jax.jit
  def run():
    params = layer.init(jax.random.key(2), key, x, w)['params']
    without = {name: value for name, value in params.items() if name != 'map'}
    out = lambda m: layer.apply({'params': without | {'map': m}}, key, x, w)
    return params['map'], out(params['map']), out(0. * params['map'] - 300.), bare.apply(
        {'params': without}, key, x, w)

  learned, out, lowered, plain = run()
  np.testing.assert_allclose([jnp.mean(learned), jnp.var(learned) * 100], [0., 1.], atol=.05)
  np.testing.assert_allclose(out - plain, learned, atol=1e-5)
  np.testing.assert_allclose(lowered, plain - 300., rtol=1e-5)  # neither bent nor clamped


def test_the_draws_of_a_3dconv_net_come_at_one_scale():
  net, noise, pooled = conv3d.Mapping(5), jax.random.normal(jax.random.key(0), (64,)), jnp.ones(6)
  params = net.init(jax.random.key(1), noise, pooled)
  same = [net.apply(params, scale * noise, pooled) for scale in (1., 7.)]
  np.testing.assert_allclose(*same, rtol=1e-4, atol=1e-5)
  assert jnp.abs(net.apply(params, -noise, pooled) - same[0]).max() > .1
  assert np.isfinite(net.apply(params, 0. * noise, pooled)).all()  # what outputs are made of
  first = jax.nn.leaky_relu(noise / jnp.sqrt(jnp.mean(noise ** 2)) @ params['params']['noise_0'][
      'kernel'] / 8., .2)
  given = conv3d.lrelu(conv3d.Equalized(5).apply({'params': params['params']['noise_0']},
                                                 noise / jnp.sqrt(jnp.mean(noise ** 2))))
  np.testing.assert_allclose(given, math.sqrt(2.) * first, rtol=1e-4)


@every_scene
def test_a_generator_of_twice_the_extent_has_its_features_twice_as_far_out_and_the_same_sphere(
    name):
  make = {'hyper_ingp': hyper_ingp, 'conv3d': conv3d.conv3d,
          'triplane_transformer': triplane_transformer}[name]
  normal = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
  code = {'volume': normal(0, 8, 8, 8, 3), 'planes': normal(1, 3, 4, 4, 2),
          'tables': [normal(2, 64, 2), normal(3, 256, 2)],
          'sdf': [normal(4, {'hyper_ingp': 4, 'conv3d': 3, 'triplane_transformer': 6}[name], 1)]}
  far, sphere = jnp.array([1.3, -.7, .2]), lambda xyz: fields.length(xyz) - SIZES[name]['radius']
  off = lambda scene, xyz: scene.distance(code, xyz) - sphere(xyz)
  scene = SCENES[name]
  two, one, other = jax.jit(lambda: (off(make(**SIZES[name], extent=2.), far), off(scene, far / 2.),
                                     off(scene, far)))()
  np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
  assert abs(two - other) > 1e-3


@pytest.mark.slow
@every_scene
def test_gradients_through_generator_and_field_agree_with_finite_differences(name):
  y = prompt()
  f = jax.jit(lambda params: at(name, params, y).sum())
  # small: ReLU has kinks
  check_grads(f, (trained(name),), order=1, modes=['rev'], atol=.05, rtol=.05, eps=1e-4)


@pytest.mark.slow
@every_scene
def test_prompts_of_a_batch_do_not_see_one_another(name):
  params, y = trained(name), prompts(3)
  other = jax.tree.map(lambda a: a.at[1].add(1.), y)
  codes = together(name)
  apart = lambda y: jax.tree.map(lambda a: a[::2], codes(params, y))
  chex.assert_trees_all_equal(apart(y), apart(other))

  each = lambda y: jax.vmap(partial(at, name, params))(y)
  first = jax.jit(jax.grad(lambda y: each(y)[0].sum()))(y)
  assert jnp.abs(first.pooled[0]).max() + jnp.abs(first.plain[0]).max() > 0.
  for slope in jax.tree.leaves(first):
    np.testing.assert_array_equal(slope[1:], 0.)


@every_scene
def test_prompts_together_are_the_prompts_one_by_one(name):
  params, y = trained(name), prompts(3)
  prepare = jax.jit(SCENES[name].prepare)
  one_by_one = [prepare(params, jax.tree.map(lambda a: a[i], y)) for i in range(3)]
  jax.tree.map(lambda a, *b: np.testing.assert_allclose(a, jnp.stack(b), rtol=1e-4, atol=1e-4),
               together(name)(params, y),
               *one_by_one)
  codes = [jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(code)])
           for code in one_by_one]
  assert jnp.abs(codes[0] - codes[1]).max() > .1                           # and they differ


@pytest.mark.slow
@every_scene
def test_a_fresh_scene_renders_a_gray_sphere_of_its_radius(name):
  scene, radius = SCENES[name], SIZES[name]['radius']
  camera = cameras.orbital(.3, .2, 3., math.radians(40.))
  flat = lambda field, xyz: (*field(xyz), jnp.zeros(3))  # no normals: they are slow to compile

  @jax.jit
  def show(key):
    code = scene.prepare(scene.init(key), prompt())
    out = render.image(key, partial(scene.field, code), camera, size=12, samples=64, jitter=0.,
                       normals=flat)
    return out.opacity, out.depth, out.rgb

  (opacity, depth, rgb), rays = show(jax.random.key(3)), cameras.rays(camera, 12)
  nearest = -jnp.sum(rays.origin * rays.direction, -1)
  aside = jnp.sqrt(jnp.sum(rays.origin ** 2, -1) - nearest ** 2)
  assert (opacity[aside < radius - .05] > .9).all() and (opacity[aside > radius + .15] < .1).all()
  front = aside < .5 * radius
  surface = nearest - jnp.sqrt(jnp.maximum(radius ** 2 - aside ** 2, 0.))
  np.testing.assert_allclose(depth[front], surface[front], atol=.05)
  np.testing.assert_allclose(rgb[front], .5, atol=.1)


def test_the_eikonal_penalty_is_0_for_a_distance_and_squares_the_excess_slope_of_a_multiple():
  sphere = lambda xyz: fields.length(xyz) - .8
  plane = lambda xyz: xyz @ jnp.array([2., -1., 2.]) / 3. + .1
  for xyz in jax.random.uniform(jax.random.key(4), (10, 3), minval=.2):
    np.testing.assert_allclose(fields.eikonal(plane, xyz), 0., atol=1e-6)
    # forward differences of a curved one
    np.testing.assert_allclose(fields.eikonal(sphere, xyz), 0., atol=1e-3)
    for slope in (0., .5, 3.):
      np.testing.assert_allclose(fields.eikonal(lambda p: slope * plane(p), xyz), (slope - 1.) ** 2,
                                 atol=1e-3)


def test_a_rendering_holds_the_eikonal_penalty_of_the_scenes_that_have_a_distance():
  camera = cameras.orbital(0., 0., 3., math.radians(40.))

  @jax.jit
  def show(slope):
    field = lambda xyz: (volsdf.density(xyz[2]), jnp.ones(3))
    draw = partial(render.image, jax.random.key(0), field, camera, size=4, samples=8)
    of = lambda slope: regularizers.eikonal(draw(distance=lambda xyz: slope * xyz[2]))
    return draw(distance=lambda xyz: slope * xyz[2]).eikonal, draw().eikonal, jax.value_and_grad(
        of)(slope)

  with_distance, without, (penalty, slope) = show(3.)
  np.testing.assert_allclose(with_distance, jnp.full((4, 4), 4.), rtol=1e-3)
  np.testing.assert_array_equal(without, jnp.zeros((4, 4)))
  np.testing.assert_allclose([penalty, slope], 4., rtol=1e-3)  # (3 - 1)^2, and 2 (3 - 1)


def test_particles_and_backgrounds_keep_the_distance_of_a_scene():
  name = 'hyper_ingp'
  code = SCENES[name].prepare(trained(name), prompt())
  scene = build.with_background(particles.stacked(SCENES[name], 2), backgrounds.constant())
  np.testing.assert_array_equal(scene.distance({'field': code}, POINT),
                                SCENES[name].distance(code, POINT))
  assert build.with_background(image.image(size=4), backgrounds.constant()).distance is None
