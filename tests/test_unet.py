"""The UNet's parts against slow references, its wiring by its derivatives. Parity:
parity/test_unet_parity.py."""
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxdreamer.nn import attention, layers
from jaxdreamer.nn.unet import UNet2DCondition
from jaxdreamer.nn.unet_config import UNetConfig, from_diffusers
from jaxdreamer.toybox import xla_flags

# Compiling is what takes time here.
QUICK = xla_flags.known({'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False})
SMALL = UNetConfig(in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
                   norm_num_groups=4,
                   down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
                   up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
                   cross_attention_dim=6, attention_head_dim=2, class_embed_type='projection',
                   projection_class_embeddings_input_dim=2)


def inputs(key):
  """sample, timesteps, text, class labels for SMALL."""
  k = jax.random.split(key, 3)
  return [jax.random.normal(k[0], (2, 4, 8, 3)), jnp.array([10., 700.]),
          jax.random.normal(k[1], (2, 5, 6)),
          jax.random.normal(k[2], (2, 2))]


def perturbed(tree, scale):
  """The tree plus noise, so that no parameter is zero."""
  noise = np.random.RandomState(0)
  return jax.tree.map(lambda p: np.asarray(p) + scale * noise.standard_normal(p.shape).astype(
      np.float32), tree)


init = jax.jit(UNet2DCondition(SMALL).init, compiler_options=QUICK)


@pytest.fixture(scope='module')
def params():
  """SMALL's parameters, none of them zero."""
  return perturbed(init(jax.random.key(0), *inputs(jax.random.key(1)))['params'], .2)


@functools.partial(jax.jit, static_argnames='dtype', compiler_options=QUICK)
def apply(params, args, *, dtype=jnp.float32):
  """SMALL at args."""
  return UNet2DCondition(SMALL, dtype).apply({'params': params}, *args)


@functools.partial(jax.jit, compiler_options=QUICK)
def value_and_grads(params, args):
  """A scalar of the first example's output, and its derivatives by all parameters and inputs."""
  scalar = lambda p, a: jnp.sin(jnp.arange(96.)) @ UNet2DCondition(SMALL).apply({'params': p}, *a)[
      0].ravel()
  return jax.value_and_grad(scalar, (0, 1))(params, args)


def init_and_apply(module, *args):
  """A module's output at random parameters, and these as a dict of numpy arrays."""
  params = perturbed(jax.jit(module.init)(jax.random.key(0), *args)['params'], 1.)
  return np.asarray(jax.jit(module.apply)({'params': params}, *args)), params


def test_group_norm_is_the_loop_over_groups_even_far_from_zero():
  x = 1000 + jax.random.normal(jax.random.key(0), (2, 3, 5, 6))
  y, p = init_and_apply(layers.GroupNorm(3, 1e-5), x)
  x = np.asarray(x, np.float64)
  for b in range(2):
    for g in (0, 2, 4):
      group = x[b, ..., g:g + 2]
      expected = (group - group.mean()) / np.sqrt(group.var() + 1e-5) * p['scale'][g:g + 2] + p[
          'bias'][g:g + 2]
      np.testing.assert_allclose(y[b, ..., g:g + 2], expected, atol=2e-3)


def test_inner_products_of_timestep_features_depend_on_the_difference_alone():
  t = jnp.array([0., 3., 500., 503.])
  f = layers.timestep_features(t, width=32)
  np.testing.assert_allclose(f[0] @ f[1], f[2] @ f[3], rtol=1e-4)
  np.testing.assert_allclose(f[0] @ f[1], np.cos(3 * 1e-4 ** (np.arange(16) / 16)).sum(), rtol=1e-5)
  swapped = layers.timestep_features(t, width=32, flip_sin_to_cos=False)
  np.testing.assert_array_equal(f, jnp.roll(swapped, 16, 1))


def test_attention_is_the_softmax_written_out_head_by_head():
  x, context = jax.random.normal(jax.random.key(1),
                                 (2, 3, 4)), jax.random.normal(jax.random.key(2), (2, 5, 6))
  y, p = init_and_apply(attention.Attention(2), x, context)
  x, context = np.asarray(x), np.asarray(context)
  q, k, v = x @ p['to_q']['kernel'], context @ p['to_k']['kernel'], context @ p['to_v']['kernel']
  mixed = np.zeros((2, 3, 4))
  for b in range(2):
    for h in (slice(0, 2), slice(2, 4)):
      for n in range(3):
        score = np.exp(k[b, :, h] @ q[b, n, h] / math.sqrt(2))
        mixed[b, n, h] = score @ v[b, :, h] / score.sum()
  np.testing.assert_allclose(y, mixed @ p['to_out_0']['kernel'] + p['to_out_0']['bias'],
                             rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_order_of_text_tokens_does_not_matter(params):
  sample, t, text, camera = inputs(jax.random.key(1))
  forward, reversed_text = (apply(params, [sample, t, y, camera]) for y in (text, text[:, ::-1]))
  np.testing.assert_allclose(forward, reversed_text, rtol=1e-3, atol=1e-4)


def test_feed_forward_gate_is_the_exact_gelu():
  x = jax.random.normal(jax.random.key(0), (1, 3, 2))
  y, p = init_and_apply(attention.GEGLU(4), x)
  h, gate = np.split(np.asarray(x) @ p['proj']['kernel'] + p['proj']['bias'], 2, -1)
  gelu = gate * .5 * (1 + np.vectorize(math.erf)(gate / math.sqrt(2)))
  np.testing.assert_allclose(y, h * gelu, rtol=1e-4, atol=1e-5)


def test_downsampling_pads_every_side_by_one():
  x = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
  y, p = init_and_apply(layers.Downsample(3), x)
  padded, kernel = np.pad(np.asarray(x[0]), ((1, 1), (1, 1), (0, 0))), p['conv']['kernel']
  for i in range(2):
    for j in range(2):
      patch = padded[2 * i:2 * i + 3, 2 * j:2 * j + 3]
      expected = np.einsum('yxi,yxio->o', patch, kernel) + p['conv']['bias']
      np.testing.assert_allclose(y[0, i, j], expected, rtol=1e-3, atol=1e-4)


def test_upsampling_repeats_pixels():
  x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
  np.testing.assert_array_equal(layers.upsample_nearest(x), np.repeat(np.repeat(x, 2, 1), 2, 2))


@pytest.mark.slow
def test_a_fresh_network_predicts_zero_and_can_learn():
  args = inputs(jax.random.key(1))
  params = init(jax.random.key(0), *args)['params']
  value, (grads, _) = value_and_grads(params, args)
  assert value == 0
  assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert jnp.abs(grads['conv_out']['kernel']).max() > 0


@pytest.mark.slow
def test_every_parameter_and_every_input_has_its_say(params):
  grads = value_and_grads(params, inputs(jax.random.key(1)))[1]
  assert not [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(grads)
              if not (jnp.isfinite(g).all() and jnp.abs(g).max() > 0)]


@pytest.mark.slow
def test_examples_of_a_batch_do_not_mix(params):
  args = inputs(jax.random.key(1))
  np.testing.assert_allclose(apply(params, [a[::-1] for a in args])[::-1], apply(params, args),
                             rtol=1e-3, atol=1e-4)
  assert all((g[1] == 0).all() for g in value_and_grads(params, args)[1][1])


def test_derivatives_agree_with_finite_differences(params):
  args = inputs(jax.random.key(1))
  slopes = value_and_grads(params, args)[1][1]
  for i, slope in enumerate(slopes):                     # sample, time, text, camera
    tangent = slope / jnp.linalg.norm(slope)
    ahead, behind = ([*args[:i], args[i] + h * tangent, *args[i + 1:]] for h in (1e-2, -1e-2))
    difference = (value_and_grads(params, ahead)[0] - value_and_grads(params, behind)[0]) / 2e-2
    np.testing.assert_allclose(difference, jnp.linalg.norm(slope), rtol=3e-3)


def test_bfloat16_stays_inside_and_near(params):
  args = inputs(jax.random.key(1))
  exact, low = apply(params, args), apply(params, args, dtype=jnp.bfloat16)
  assert low.dtype == jnp.float32
  assert jnp.linalg.norm(low - exact) < .05 * jnp.linalg.norm(exact)


def count(config):
  """Parameters of a config, without making them."""
  args = (jnp.zeros((1, 8, 8, config.in_channels)), jnp.zeros(1),
          jnp.zeros((1, 2, config.cross_attention_dim)))
  xl = {'text_embeds': jnp.zeros((1, 1280)),
        'time_ids': jnp.zeros((1, 6))} if config.addition_embed_type else {}
  like = jax.eval_shape(UNet2DCondition(config).init, jax.random.key(0), *args, **xl)
  return sum(leaf.size for leaf in jax.tree.leaves(like))


CROSS_DOWN, CROSS_UP = 'CrossAttnDownBlock2D', 'CrossAttnUpBlock2D'
SD15 = {
    '_class_name': 'UNet2DConditionModel', '_diffusers_version': '0.6.0', 'act_fn': 'silu',
    'attention_head_dim': 8,
    'block_out_channels': [320, 640, 1280, 1280], 'center_input_sample': False,
    'cross_attention_dim': 768,
    'down_block_types': [CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, 'DownBlock2D'],
    'downsample_padding': 1, 'flip_sin_to_cos': True,
    'freq_shift': 0, 'in_channels': 4, 'layers_per_block': 2, 'mid_block_scale_factor': 1,
    'norm_eps': 1e-5,
    'norm_num_groups': 32, 'out_channels': 4, 'sample_size': 64,
    'up_block_types': ['UpBlock2D', CROSS_UP, CROSS_UP, CROSS_UP]}
SD21_BASE = SD15 | {
    '_diffusers_version': '0.10.0.dev0', 'attention_head_dim': [5, 10, 20, 20],
    'cross_attention_dim': 1024,
    'dual_cross_attention': False, 'num_class_embeds': None, 'only_cross_attention': False,
    'use_linear_projection': True}
SD21 = SD21_BASE | {'sample_size': 96, 'upcast_attention': True}
SDXL = SD21 | {
    '_diffusers_version': '0.19.0.dev0', 'addition_embed_type': 'text_time',
    'addition_embed_type_num_heads': 64,
    'addition_time_embed_dim': 256, 'attention_head_dim': [5, 10, 20],
    'block_out_channels': [320, 640, 1280],
    'class_embed_type': None, 'class_embeddings_concat': False, 'conv_in_kernel': 3,
    'conv_out_kernel': 3,
    'cross_attention_dim': 2048, 'cross_attention_norm': None,
    'down_block_types': ['DownBlock2D', CROSS_DOWN, CROSS_DOWN],
    'encoder_hid_dim': None, 'encoder_hid_dim_type': None, 'mid_block_only_cross_attention': None,
    'mid_block_type': 'UNetMidBlock2DCrossAttn', 'num_attention_heads': None,
    'projection_class_embeddings_input_dim': 2816,
    'resnet_out_scale_factor': 1.0, 'resnet_skip_time_act': False,
    'resnet_time_scale_shift': 'default', 'sample_size': 128,
    'time_cond_proj_dim': None, 'time_embedding_act_fn': None, 'time_embedding_dim': None,
    'time_embedding_type': 'positional',
    'timestep_post_act': None, 'transformer_layers_per_block': [1, 2, 10],
    'up_block_types': [CROSS_UP, CROSS_UP, 'UpBlock2D'], 'upcast_attention': None}


@pytest.mark.slow
@pytest.mark.parametrize('published, parameters', [
    (SD15, 859_520_964), (SD21_BASE, 865_910_724), (SD21, 865_910_724), (SDXL, 2_567_463_684)])
def test_published_configs_have_the_published_number_of_parameters(published, parameters):
  assert count(from_diffusers(published)) == parameters


def test_configs_that_ask_for_other_maths_are_refused():
  with pytest.raises(ValueError, match='encoder_hid_dim.*dual_cross_attention'):
    from_diffusers({'encoder_hid_dim': 768, 'dual_cross_attention': True, 'act_fn': 'silu'})
  with pytest.raises(ValueError, match='addition_embed_type .image.'):
    from_diffusers({'addition_embed_type': 'image'})
  with pytest.raises(ValueError, match='go together'):
    dataclasses.replace(SMALL, addition_embed_type='text_time', addition_time_embed_dim=4)
  with pytest.raises(ValueError, match='addition_time_embed_dim go together'):
    dataclasses.replace(SMALL, class_embed_type=None, addition_embed_type='text_time')
  with pytest.raises(ValueError, match='AttnDownBlock2D'):
    dataclasses.replace(SMALL, down_block_types=('DownBlock2D', 'AttnDownBlock2D'))
  with pytest.raises(ValueError, match='one of each per level'):
    dataclasses.replace(SMALL, block_out_channels=(8, 16, 32))
  with pytest.raises(ValueError, match='go together'):
    dataclasses.replace(SMALL, class_embed_type=None)


@pytest.mark.parametrize('i, shape, message', [
    (0, (2, 5, 8, 3), 'multiples of 2'), (0, (2, 4, 8, 4), '3 channels'), (2, (2, 5, 7), 'width 6'),
    (3, (2, 3), 'width 3, the config asks for 2')])
def test_wrong_shapes_are_named(params, i, shape, message):
  args = inputs(jax.random.key(1))
  args[i] = jnp.zeros(shape)
  with pytest.raises(ValueError, match=message):
    UNet2DCondition(SMALL).apply({'params': params}, *args)


def test_the_inputs_of_xl_are_asked_for_and_no_others():
  xl = dataclasses.replace(SMALL, class_embed_type=None, addition_embed_type='text_time',
                           addition_time_embed_dim=4,
                           projection_class_embeddings_input_dim=5 + 6 * 4)
  args, pooled, sizes = inputs(jax.random.key(1))[:3], jnp.zeros((2, 5)), jnp.zeros((2, 6))
  init = functools.partial(jax.eval_shape, UNet2DCondition(xl).init, jax.random.key(0), *args)
  init(text_embeds=pooled, time_ids=sizes)
  for wrong in ({}, {'text_embeds': pooled}, {'text_embeds': pooled, 'time_ids': sizes[:, :5]}):
    with pytest.raises(ValueError, match='the config asks for P . 4 I = 29'):
      init(**wrong)
  with pytest.raises(ValueError, match='no use for text_embeds'):
    UNet2DCondition(SMALL).init(jax.random.key(0), *inputs(jax.random.key(1)), text_embeds=pooled)


@pytest.mark.slow
def test_less_memory_changes_no_number(params):
  thrifty = UNet2DCondition(SMALL, remat=True, chunk=4)
  args = inputs(jax.random.key(1))

  @functools.partial(jax.jit, compiler_options=QUICK)
  def value_and_slopes(args):
    return jax.value_and_grad(lambda a: jnp.sin(jnp.arange(96.))
                              @ thrifty.apply({'params': params}, *a)[0].ravel())(args)

  value, slopes = value_and_slopes(args)
  expected, (_, expected_slopes) = value_and_grads(params, args)
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  for slope, other in zip(slopes, expected_slopes):
    np.testing.assert_allclose(slope, other, rtol=1e-3, atol=1e-4 * jnp.abs(other).max())


def test_channels_must_divide_into_groups_and_heads():
  with pytest.raises(ValueError, match='6 channels do not divide into 4 groups'):
    layers.GroupNorm(4).init(jax.random.key(0), jnp.zeros((1, 2, 2, 6)))
  with pytest.raises(ValueError, match='6 channels do not divide into 4 heads'):
    attention.Attention(4).init(jax.random.key(0), jnp.zeros((1, 2, 6)), jnp.zeros((1, 2, 6)))


def test_gelu_is_exact_and_its_slope_passes_a_mesh():
  x = jnp.linspace(-6., 6., 64)
  theirs = lambda x: jax.nn.gelu(x, approximate=False)
  np.testing.assert_allclose(layers.gelu(x), theirs(x), atol=1e-6)
  np.testing.assert_allclose(jax.vmap(jax.grad(layers.gelu))(x), jax.vmap(jax.grad(theirs))(x),
                             atol=1e-6)
  assert layers.gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
  mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
  slope = jax.grad(jax.remat(lambda x: jnp.sum(layers.gelu(x))))
  over = jax.jit(jax.shard_map(slope, mesh=mesh, in_specs=PartitionSpec('data'),
                               out_specs=PartitionSpec('data')))
  np.testing.assert_allclose(over(x), slope(x), atol=1e-6)
