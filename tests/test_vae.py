"""The autoencoder: its posterior, its sizes, what it refuses. Parity: parity/test_vae_parity.py."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.nn import vae
from jaxdreamer.nn.vae import AutoencoderKL, Posterior, VAEConfig, config_from_diffusers, sample

PUBLISHED = {  # as Stable Diffusion 1.5 and its autoencoder's fine-tunings have it
    '_class_name': 'AutoencoderKL', '_diffusers_version': '0.6.0', 'act_fn': 'silu',
    'block_out_channels': [128, 256, 512, 512], 'down_block_types': ['DownEncoderBlock2D'] * 4,
             'in_channels': 3,
    'latent_channels': 4, 'layers_per_block': 2, 'norm_num_groups': 32, 'out_channels': 3,
             'sample_size': 512,
    'up_block_types': ['UpDecoderBlock2D'] * 4}
SMALL = VAEConfig(block_out_channels=(4, 8), down_block_types=(vae.DOWN,) * 2,
                  up_block_types=(vae.UP,) * 2,
                  norm_num_groups=2)


def test_a_published_config_is_that_of_stable_diffusion_and_has_its_number_of_parameters():
  assert config_from_diffusers(PUBLISHED) == vae.STABLE_DIFFUSION
  like = jax.eval_shape(AutoencoderKL(vae.STABLE_DIFFUSION).init, jax.random.key(0),
                        jnp.zeros((1, 64, 64, 3)))
  assert sum(leaf.size for leaf in jax.tree.leaves(like)) == 83_653_863


def test_shapes_of_latents_and_images_are_those_of_stable_diffusion():
  model = AutoencoderKL(vae.STABLE_DIFFUSION)
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  encode, decode = (lambda v, x, m=m: model.apply(v, x, method=m) for m in ('encode', 'decode'))
  posterior = jax.eval_shape(encode, variables, jnp.zeros((2, 512, 256, 3)))
  assert posterior.mean.shape == posterior.logvar.shape == (2, 64, 32, 4)
  assert jax.eval_shape(decode, variables, posterior.mean).shape == (2, 512, 256, 3)


def test_the_log_variance_is_kept_where_its_exponential_is():
  model, x = AutoencoderKL(SMALL), jnp.zeros((1, 4, 4, 3))
  params = jax.jit(model.init)(jax.random.key(0), x)['params']
  params['quant_conv']['bias'] = jnp.array([50., -50., 0., 1., 50., -50., 0., 1.])
  mean, logvar = jax.jit(lambda p: model.apply({'params': p}, x, method='encode'))(params)
  np.testing.assert_allclose(logvar[0, 0, 0, :2], [20., -30.])
  np.testing.assert_allclose(mean[0, 0, 0, :2], [50., -50.], atol=5.)


def test_samples_have_the_posteriors_moments():
  mean, logvar = jnp.array([-1., 2.]), jnp.log(jnp.array([.25, 9.]))
  posterior = Posterior(*(jnp.broadcast_to(p[None, None, None], (1, 100, 100, 2))
                          for p in (mean, logvar)))
  z = np.asarray(sample(jax.random.key(0), posterior)).reshape(-1, 2)
  np.testing.assert_allclose(z.mean(0), mean, atol=.1)
  np.testing.assert_allclose(z.std(0), [.5, 3.], rtol=.03)


def test_a_sample_moves_with_the_mean_and_with_the_standard_deviation():
  key, posterior = jax.random.key(0), Posterior(jnp.ones((1, 2, 2, 3)), jnp.full((1, 2, 2, 3), .7))
  z, tangent = jax.jvp(lambda p: sample(key, p), (posterior,),
                       (Posterior(jnp.full((1, 2, 2, 3), 2.), jnp.ones((1, 2, 2, 3))),))
  np.testing.assert_allclose(tangent, 2. + .5 * (z - 1.), rtol=1e-5)


@pytest.mark.parametrize('field, value', [
    ('shift_factor', .0609), ('latents_mean', [0., 0., 0., 0.]), ('latents_std', [1., 1., 1., 1.]),
    ('act_fn', 'gelu'),
    ('use_quant_conv', False), ('use_post_quant_conv', False), ('mid_block_add_attention', False),
    ('_class_name', 'AutoencoderTiny'), ('temporal_compression_ratio', 4)])
def test_a_config_that_asks_for_other_maths_is_refused_by_name(field, value):
  with pytest.raises(ValueError, match=field):
    config_from_diffusers(PUBLISHED | {field: value})


def test_fields_that_change_nothing_are_read():
  nothing = {'force_upcast': False, 'shift_factor': None, 'latents_mean': None,
             'use_quant_conv': True,
             '_name_or_path': 'elsewhere', 'scaling_factor': .13025}
  assert config_from_diffusers(PUBLISHED | nothing).scaling_factor == .13025
  assert config_from_diffusers(PUBLISHED).scaling_factor == .18215


def test_a_config_of_other_blocks_is_refused():
  with pytest.raises(ValueError, match='AttnDownEncoderBlock2D'):
    config_from_diffusers(PUBLISHED | {'down_block_types': ['DownEncoderBlock2D'] * 3
                                       + ['AttnDownEncoderBlock2D']})
  with pytest.raises(ValueError, match='one of each per level'):
    VAEConfig(block_out_channels=(8, 8))


def test_images_and_latents_of_a_wrong_shape_are_refused():
  model = AutoencoderKL(SMALL)
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
  for x, method, words in (((1, 5, 4, 3), 'encode', 'multiples of 2'),
                           ((1, 3, 4, 4), 'encode', r'\[B, H, W, 3\]'),
                           ((1, 4, 4, 3), 'decode', r'\[B, h, w, 4\]')):
    with pytest.raises(ValueError, match=words):
      jax.eval_shape(lambda v, x, m=method: model.apply(v, x, method=m), variables, jnp.zeros(x))
