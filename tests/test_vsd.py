"""LoRA as a transform of weights, and VSD between its two limits: CSD while the LoRA knows nothing,
SDS once it knows all."""
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from refusals import refused

from jaxdreamer import cameras, conditioning, diffusion
from jaxdreamer.estimators.csd import csd
from jaxdreamer.estimators.sds import sds
from jaxdreamer.estimators.vsd import vsd
from jaxdreamer.nn import layers, lora
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.types import Text
from jaxdreamer.weights import loras

KEY = jax.random.key(0)
WEIGHTS = {'block': {'attn1': {'to_q': {'kernel': jnp.ones((4, 6))},
                               'to_out_0': {'kernel': jnp.ones((6, 4)), 'bias': jnp.ones(4)}},
                     'conv': {'kernel': jnp.ones((3, 3, 4, 4))}}}
Z0, N = .7, 64
BASE = gaussian(jnp.full((1, 1, 1), .4), std=.5, null_mean=jnp.full((1, 1, 1), -.3))


def with_attention(eps):
  """BASE with a matrix that can be adapted: eps(base's prediction, kernel [1, 1], z_t, t)."""
  weights = BASE.weights | {'attn1': {'to_q': {'kernel': jnp.ones((1, 1))}}}
  def eps_fn(weights, z_t, t, text, camera):
    return eps(BASE.eps_fn(weights, z_t, t, text, camera), weights['attn1']['to_q']['kernel'], z_t,
               t)
  return BASE.replace(weights=weights, eps_fn=eps_fn)


DRAWS = oracle.draws(jnp.linspace(.1, .9, N), t_min=.1)


def residual(estimator, prior, est=()):
  return oracle.residual(estimator, prior, DRAWS, Z0, est)


def test_only_matching_matrices_are_adapted_and_merging_is_undone():
  small = lora.init(KEY, WEIGHTS, rank=2)
  assert {path: (w['down'].shape, w['up'].shape) for path, w in small.items()} == {
    'block/attn1/to_q/kernel': ((4, 2), (2, 6)), 'block/attn1/to_out_0/kernel': ((6, 2), (2, 4))}
  # `up` is zero at first
  jax.tree.map(np.testing.assert_array_equal, lora.merge(WEIGHTS, small), WEIGHTS)
  small = jax.tree.map(lambda x: x + .1, small)
  merged = lora.merge(WEIGHTS, small, scale=3.)
  want = 1. + 3. * small['block/attn1/to_q/kernel']['down'] @ small['block/attn1/to_q/kernel']['up']
  np.testing.assert_allclose(merged['block']['attn1']['to_q']['kernel'], want, rtol=1e-6)
  back = lora.merge(merged, small, scale=-3.)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), back, WEIGHTS)


@pytest.mark.parametrize('size', [1, 3])
def test_a_lora_of_a_convolution_is_one_of_its_size_and_one_of_a_pixel(size):
  """Merged, it adds what the two make one after the other, and what published files mean by it."""
  keys = jax.random.split(KEY, 3)
  weights = {'unet': {'conv1': {'kernel': jax.random.normal(keys[0], (size, size, 5, 7))}}}
  small = lora.init(KEY, weights, rank=2, matrices=lora.UNET)['unet/conv1/kernel']
  assert small['down'].shape == (size, size, 5, 2) and small['up'].shape == (2, 7)
  small = small | {'up': jax.random.normal(keys[1], (2, 7))}
  x = jax.random.normal(keys[2], (2, 6, 6, 5))
  conv = lambda x, kernel: jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision='highest')
  merged = lora.merge(weights, {'unet/conv1/kernel': small}, scale=.5)['unet']['conv1']['kernel']
  want = conv(x, weights['unet']['conv1']['kernel']) + .5 * conv(conv(x, small['down']),
                                                                 small['up'][None, None])
  np.testing.assert_allclose(conv(x, merged), want, rtol=1e-4, atol=1e-4)
  torch = lambda kernel: np.asarray(kernel).transpose(3, 2, 0, 1)
  file = loras.LowRank(np.asarray(small['up']).T, torch(small['down']).reshape(2, -1), .5,
                       (7, 5, size, size))
  np.testing.assert_allclose(torch(merged - weights['unet']['conv1']['kernel']), file.tensor(),
                             rtol=1e-4, atol=1e-5)


def camera_mlp(width):
  """A UNet's class embedding of `width` numbers, and an attention matrix."""
  dense = lambda n, m: {'kernel': jax.random.normal(KEY, (n, m)), 'bias': jnp.zeros(m)}
  return {'unet': {'attn1': {'to_q': {'kernel': jnp.ones((4, 6))}},
                   'class_embedding': {'linear_1': dense(width, 8), 'linear_2': dense(8, 8)}}}


def test_what_cameras_alone_enter_by_is_trained_whole_and_what_holds_more_by_a_lora():
  small = lora.init(KEY, camera_mlp(16), rank=2)
  assert {path: set(w) for path, w in small.items()} == {
    'unet/attn1/to_q/kernel': {'down', 'up'},
    **{f'unet/class_embedding/linear_{i}/{part}': {'change'} for i in (1, 2)
       for part in ('kernel', 'bias')}}
  assert not any(np.any(w['change']) for w in small.values() if 'change' in w)
  merged = lora.merge(camera_mlp(16), jax.tree.map(lambda x: x + .5, small))['unet'][
      'class_embedding']
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b + .5, rtol=1e-6), merged,
               camera_mlp(16)['unet']['class_embedding'])
  mixed = lora.init(KEY, camera_mlp(40), rank=2)
  assert set(mixed['unet/class_embedding/linear_2/kernel']) == {'down', 'up'} and len(mixed) == 2


@pytest.mark.parametrize('kind', [jnp.bfloat16, jnp.float16])
def test_a_tiny_step_is_not_lost_in_a_merged_kernel(kind):
  weights = jax.tree.map(lambda x: (x * jax.random.normal(KEY, x.shape)).astype(kind), WEIGHTS)
  small = jax.tree.map(lambda x: x + 1e-4 * jax.random.normal(KEY, x.shape),
                       lora.init(KEY, WEIGHTS, rank=2))
  path = 'block/attn1/to_q/kernel'
  old, new = (w['block']['attn1']['to_q']['kernel'].astype(jnp.float32)
              for w in (weights, lora.merge(weights, small)))
  want = small[path]['down'] @ small[path]['up']
  assert jnp.linalg.norm(new - old - want) < .01 * jnp.linalg.norm(want)


@pytest.mark.slow
def test_a_branch_beside_a_kernel_adds_the_same_and_loses_no_tiny_step():
  """What a bfloat16 layer of nn/layers makes of kernel and branch, against the sum in float64."""
  layer, like = layers.Dense(48, dtype=jnp.bfloat16), layers.Dense(48)
  x = jax.random.normal(KEY, (4096, 32)).astype(jnp.bfloat16)
  weights = jax.tree.map(lambda a: a.astype(jnp.bfloat16),
                         like.init(KEY, jnp.zeros((1, 32)))['params'])
  tiny = 1e-3 * jax.random.normal(jax.random.key(1), (4, 48))
  small = {'to_q/kernel': {'down': jax.random.normal(KEY, (32, 4)) / 4., 'up': tiny}}
  apply = lambda w: np.asarray(layer.apply({'params': w['to_q']}, x), np.float64)
  moved = apply(lora.beside({'to_q': weights}, small)) - apply({'to_q': weights})
  # Rounding its output adds noise, which does not lean: the change of the kernel that explains the
  # outputs best is the LoRA's.
  found, *_ = np.linalg.lstsq(np.asarray(x, np.float64), moved, rcond=None)
  want = np.asarray(small['to_q/kernel']['down'], np.float64) @ np.asarray(tiny, np.float64)
  lossy = weights['kernel'] + jnp.asarray(want, jnp.bfloat16)
  rounded = np.asarray(lossy, np.float64) - np.asarray(weights['kernel'], np.float64)
  error = lambda a: np.linalg.norm(a - want) / np.linalg.norm(want)
  assert error(found) < .1 < .3 < error(rounded)
  same = {'to_q': jax.tree.map(lambda a: a.astype(jnp.float32), weights)}
  big = {path: {'down': w['down'], 'up': 100. * w['up']} for path, w in small.items()} | {
      'to_q/bias': {'change': jnp.arange(48.)}}
  of = lambda w: like.apply({'params': w['to_q']}, x.astype(jnp.float32))
  np.testing.assert_allclose(of(lora.beside(same, big)), of(lora.merge(same, big)),
                             rtol=1e-4, atol=1e-4)
  whole = {'to_q/kernel': {'change': .1 * jnp.ones((32, 48))}}
  np.testing.assert_allclose(of(lora.beside(same, whole)), of(lora.merge(same, whole)),
                             rtol=1e-4, atol=1e-4)


def test_a_lora_that_knows_nothing_gives_csd_times_scale_minus_one():
  prior = with_attention(lambda eps, kernel, z_t, t: eps * kernel[0, 0])
  estimator = vsd(guidance=7.5)
  np.testing.assert_allclose(residual(estimator, prior, estimator.init(KEY, prior)),
                             6.5 * residual(csd(), prior), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_perp_neg_turns_what_vsd_follows_and_not_its_lora():
  """Between two sides the guided prediction moves as diffusion.perp_neg says, and the LoRA's, which
  takes no side, does not."""
  n, one = 3, jnp.ones((1, 1))
  camera = jax.vmap(lambda azimuth: cameras.orbital(azimuth, 0., 3., .7))(jnp.array([.4, .9, 2.]))
  text = Text(jnp.linspace(-1., 1., 4)[:, None, None], one, 0. * one, 0. * one)
  prior = with_attention(lambda eps, w, z_t, t: eps)
  prior = prior.replace(eps_fn=lambda w, z_t, t, text, camera: jnp.concatenate(
      [text[..., None], text[..., None] ** 2], -1))
  z, drawn = jnp.zeros((n, 1, 1, 2)), oracle.draws(jnp.full(n, .4), shape=(1, 1, 2))
  estimator = vsd(guidance=5.)
  def of(scale):
    views = conditioning.condition(text, camera, perp_neg=scale)
    return estimator.residual(drawn, estimator.init(KEY, prior), prior, z, views, 0)[0]
  own, others, weights = jax.vmap(lambda azimuth: diffusion.perp_neg_texts(
    text.views, azimuth, jnp.zeros(())))(camera.azimuth)
  eps = lambda text: prior.eps(z, drawn.t, text, None)
  followed = diffusion.perp_neg(eps(own), eps(jnp.zeros((n, 1, 1))),
                                [eps(others[:, k]) for k in (0, 1)], .5 * weights, 5.)
  np.testing.assert_allclose(of(.5), followed - 1., rtol=1e-4, atol=1e-5)  # 1: the LoRA's, of plain
  assert np.abs(of(.5) - of(1e-6)).max() > .01


def test_a_lora_that_knows_the_scenes_score_gives_sds():
  # merged, the kernel is not 1: the exact score of the one scene there is
  def eps(base, kernel, z_t, t):
    alpha, sigma = (f(t)[:, None, None, None] for f in (BASE.schedule.alpha, BASE.schedule.sigma))
    return jnp.where(kernel[0, 0] == 1., base, (z_t - alpha * Z0) / sigma)
  prior = with_attention(eps)
  estimator = vsd(guidance=7.5)
  known = jax.tree.map(lambda x: x + 1., estimator.init(KEY, prior))
  np.testing.assert_allclose(residual(estimator, prior, known),
                             residual(sds(guidance=7.5), prior), rtol=1e-3, atol=1e-4)


def test_the_lora_learns_the_score_of_the_scene_and_the_prior_is_left_alone():
  prior = with_attention(lambda eps, kernel, z_t, t: eps + kernel[0, 0] - 1.)
  estimator = vsd(guidance=1.)
  est, z = estimator.init(KEY, prior), jnp.full((N, 1, 1, 1), Z0)

  def loss(est, i):
    keys = jax.random.split(jax.random.fold_in(KEY, i), N)
    return estimator.loss(DRAWS._replace(key=keys), est, prior, z, oracle.views(N), 0)
  values, step = [], jax.jit(jax.value_and_grad(loss))
  for i in range(200):
    value, grad = step(est, i)
    est = jax.tree.map(lambda w, g: w - .05 * g, est, grad)
    values.append(float(value))
  shift = lora.merge(prior.weights, est)['attn1']['to_q']['kernel'][0, 0] - 1.
  # The best constant is the mean over t of eps - eps_hat, for z = Z0 and a prior of mean .4.
  t = jnp.linspace(0., 1., 10_001)
  b, alpha, _ = oracle.gain(BASE, .5, t)
  best = -jnp.mean(b * alpha * (Z0 - .4))
  assert abs(float(shift - best)) < .08 and np.mean(values[-50:]) < np.mean(values[:10])


@pytest.mark.parametrize('predicted, convert', [
  ('epsilon', lambda eps, z_t, alpha, sigma: eps),
  ('v_prediction', lambda eps, z_t, alpha, sigma: (eps - sigma * z_t) / alpha),
  ('sample', diffusion.x0_from_eps)])
def test_the_lora_learns_by_the_distance_in_what_its_network_predicts(predicted, convert):
  prior = with_attention(lambda eps, kernel, z_t, t: eps).replace(predicted=predicted)
  estimator, z = vsd(guidance=1.), jnp.full((N, 1, 1, 1), Z0)
  keys = jax.vmap(lambda key: jax.random.split(key, 3))(DRAWS.key)
  t = jax.vmap(jax.random.uniform)(keys[:, 0])
  eps = jax.vmap(lambda key: jax.random.normal(key, (1, 1, 1)))(keys[:, 1])
  z_t = diffusion.diffuse(z, t, eps, schedule=BASE.schedule)
  alpha, sigma = (f(t)[:, None, None, None] for f in (BASE.schedule.alpha, BASE.schedule.sigma))
  want = np.mean((convert(BASE.eps(z_t, t, jnp.ones((N, 1, 1)), None), z_t, alpha, sigma)
                  - convert(eps, z_t, alpha, sigma)) ** 2)
  est = estimator.init(KEY, prior)
  got = estimator.loss(DRAWS, est, prior, z, oracle.views(N), 0)
  np.testing.assert_allclose(got, want, rtol=1e-3)


def test_normalized_it_is_the_difference_of_denoised_latents_over_the_distance_of_each_draw():
  """OSEDiff's loss (stated per picture, in float64): the LoRA's denoised latent less the prior's,
  over the mean absolute distance of z from the latter; of the weights a run asks for it takes
  none."""
  prior = with_attention(lambda eps, kernel, z_t, t: eps + kernel[0, 0] - 1.)
  n, shape = 5, (2, 3, 4)
  estimator = vsd(guidance=7.5, normalized=True)
  est = jax.tree.map(lambda x: x + .3, estimator.init(KEY, prior))
  drawn = oracle.draws(jnp.linspace(.05, .95, n), shape=shape)
  z = jax.random.normal(jax.random.key(3), (n, *shape))
  got, _ = estimator.residual(drawn, est, prior, z, oracle.views(n, negative=-1.), 0)
  own = prior.replace(weights=lora.merge(prior.weights, est))
  for i in range(n):
    t = drawn.t[i:i + 1]
    alpha, sigma = (np.float64(rate(t)[0]) for rate in (BASE.schedule.alpha, BASE.schedule.sigma))
    z_t = alpha * np.asarray(z[i], np.float64) + sigma * np.asarray(drawn.eps[i], np.float64)
    def denoised(eps):
      return (z_t - sigma * eps) / alpha
    def eps(of, text):
      out = of.eps(jnp.asarray(z_t[None], jnp.float32), t, jnp.full((1, 1, 1), text), None)
      return np.asarray(out[0], np.float64)
    away = eps(prior, -1.)
    p, phi = denoised(away + 7.5 * (eps(prior, 1.) - away)), denoised(eps(own, 1.))
    want = (phi - p) / np.mean(np.abs(z[i] - p))
    np.testing.assert_allclose(got[i], want, rtol=2e-3, atol=2e-3 * np.abs(want).max())
  assert estimator.weight == 'uniform' and vsd().weight is None


def test_a_prior_without_attention_is_refused_in_one_line():
  with refused('vsd.*no attention'):
    vsd(guidance=1.).init(KEY, BASE)
