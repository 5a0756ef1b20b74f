"""Depth estimators beside parity: sizes of published models, refused configs and images,
preprocessing."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.nn import bit, depth_anything, dinov2, dpt, interpolate

BIT = {'model_type': 'bit', 'global_padding': 'same', 'layer_type': 'bottleneck',
       'depths': [3, 4, 9],
       'out_features': ['stage1', 'stage2', 'stage3'], 'embedding_dynamic_padding': True}
MIDAS = {'model_type': 'dpt', 'is_hybrid': True, 'neck_hidden_sizes': [256, 512, 768, 768],
         'reassemble_factors': [1, 1, 1, .5],
         'backbone_config': BIT, 'hidden_dropout_prob': .0, 'use_bias_in_fusion_residual': None,
         'torch_dtype': 'float32'}
DINO = {'model_type': 'dinov2', 'image_size': 518, 'hidden_size': 384, 'num_attention_heads': 6,
        'out_indices': [3, 6, 9, 12],
        'out_features': ['stage3', 'stage6', 'stage9', 'stage12'], 'reshape_hidden_states': False}
SMALL = {'model_type': 'depth_anything', 'backbone_config': DINO, 'reassemble_hidden_size': 384,
         'patch_size': 14}


def count(model, size):
  """Parameters of a model, without making them."""
  like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
  return sum(leaf.size for leaf in jax.tree.leaves(like))


@pytest.mark.slow
def test_published_configs_are_the_defaults_and_have_the_published_number_of_parameters():
  midas, small = dpt.config_from_transformers(MIDAS), depth_anything.config_from_transformers(SMALL)
  assert midas == dpt.DPTConfig()
  assert small == depth_anything.DepthAnythingConfig()
  assert count(dpt.DPTForDepthEstimation(midas), 64) == 122_377_985
  assert count(depth_anything.DepthAnythingForDepthEstimation(small), 28) == 24_785_089
  normals = dataclasses.replace(midas, head_channels=3)
  assert count(dpt.DPTForDepthEstimation(normals), 64) == 122_377_985 + 2 * 33


@pytest.mark.parametrize('change, message', [
    ({'is_hybrid': False}, 'is_hybrid'), ({'readout_type': 'add'}, 'readout_type'),
    ({'add_projection': True}, 'add_projection'),
    ({'use_batch_norm_in_fusion_residual': True}, 'use_batch_norm'),
    ({'hidden_act': 'relu'}, 'hidden_act'),
    ({'patch_size': 14}, 'patch_size'), ({'a_new_option': 1}, 'a_new_option'),
    ({'head_in_index': 0}, 'head_in_index'),
    ({'neck_hidden_sizes': [96, 192, 384, 768]}, 'must begin with'),
    ({'reassemble_factors': [4, 2, 1, .25]}, 'must end with'),
    ({'backbone_out_indices': [2, 5, 8, 12]}, 'must ascend'),
    ({'image_size': [384, 512]}, 'not square'),
    ({'num_attention_heads': 7}, '7 heads'), ({'backbone_out_indices': [2, 5, 8]}, 'four of each')])
def test_dpt_configs_that_ask_for_other_maths_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dpt.config_from_transformers(MIDAS | change)


def test_a_dpt_config_that_leaves_out_what_is_not_the_default_is_refused():
  with pytest.raises(ValueError, match='is_hybrid'):
    dpt.config_from_transformers({k: v for k, v in MIDAS.items() if k != 'is_hybrid'})
  with pytest.raises(ValueError, match='layer_type.*preactivation'):
    bit.config_from_transformers({k: v for k, v in BIT.items() if k != 'layer_type'})


@pytest.mark.parametrize('change, message', [
    ({'layer_type': 'preactivation'}, 'layer_type'), ({'global_padding': None}, 'global_padding'),
    ({'width_factor': 2}, 'width'),
    ({'embedding_dynamic_padding': False}, 'embedding_dynamic_padding'),
    ({'output_stride': 8}, 'output_stride'),
    ({'out_features': ['stage2', 'stage3']}, 'stage1, stage2 and stage3'),
    ({'hidden_sizes': [256, 500, 1024]}, 'multiples of 32'),
    ({'depths': [3, 4], 'out_features': ['stage1', 'stage2']}, 'stage1, stage2 and'),
    ({'hidden_act': 'gelu'}, 'hidden_act')])
def test_bit_configs_that_ask_for_other_maths_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    bit.config_from_transformers(BIT | change)


@pytest.mark.parametrize('change, message', [
    ({'use_swiglu_ffn': True}, 'use_swiglu_ffn'), ({'reshape_hidden_states': True},
                                                   'reshape_hidden_states'),
    ({'hidden_act': 'silu'}, 'hidden_act'), ({'model_type': 'dinov2_with_registers'},
                                             'dinov2_with_registers'),
    ({'num_register_tokens': 4}, 'num_register_tokens'), ({'out_indices': [1, 6, 9, 12]},
                                                          'contradict'),
    ({'out_features': ['stage13']}, 'stage13'), ({'out_features': None, 'out_indices': [9, 6]},
                                                 'must ascend'),
    ({'patch_size': [14, 16]}, 'not square'), ({'num_attention_heads': 7}, '7 heads')])
def test_dinov2_configs_that_ask_for_other_maths_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dinov2.config_from_transformers(DINO | change)


@pytest.mark.parametrize('change, message', [
    ({'depth_estimation_type': 'ordinal'}, 'ordinal'), ({'head_in_index': 1}, 'head_in_index'),
    ({'patch_size': 16}, 'patch_size'),
    ({'reassemble_hidden_size': 768}, 'reassemble_hidden_size'),
    ({'reassemble_factors': [4, 2, 1]}, 'one of each'),
    ({'reassemble_factors': [4, 2, 1.5, 1]}, 'whole'), ({'backbone': 'resnet50'}, 'resnet50'),
    ({'use_timm_backbone': True}, 'use_timm_backbone')])
def test_depth_anything_configs_that_ask_for_other_maths_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    depth_anything.config_from_transformers(SMALL | change)


def test_a_depth_anything_config_without_a_backbone_means_version_1():
  config = depth_anything.config_from_transformers({'model_type': 'depth_anything'})
  assert config.backbone_config == dataclasses.replace(dinov2.Dinov2Config(),
                                                       out_indices=(9, 10, 11, 12))


@pytest.mark.parametrize('model, shape, message', [
    (dpt.DPTForDepthEstimation(dpt.DPTConfig()), (1, 48, 64, 3), 'multiples of 32'),
    (dpt.DPTForDepthEstimation(dpt.DPTConfig()), (1, 64, 64, 4), '3 channels'),
    (depth_anything.DepthAnythingForDepthEstimation(depth_anything.DepthAnythingConfig()),
     (1, 28, 30, 3), 'multiples of 14')])
def test_images_of_wrong_shapes_are_refused(model, shape, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


def test_aligned_corners_keep_ramps_and_edges_keep_means():
  ramp = jnp.broadcast_to(jnp.arange(5.)[None, :, None, None], (1, 5, 3, 1))
  for method in interpolate.METHODS:
    big = interpolate.resize(ramp, (10, 6), method=method)
    np.testing.assert_allclose(big.mean(), ramp.mean(), rtol=1e-6)
    assert interpolate.resize(ramp, (5, 3), method=method) is ramp
  big = interpolate.resize(ramp, (9, 6), align_corners=True)
  np.testing.assert_allclose(big[0, :, 0, 0], np.arange(9) / 2, atol=1e-6)


@pytest.mark.parametrize('height, width, size, multiple, expected', [
    (480, 640, 518, 14, (518, 686)), (640, 480, 384, 32, (512, 384)), (64, 64, 384, 32, (384, 384)),
    (1000, 10, 14, 14, (1400, 14))])
def test_network_sizes_keep_the_aspect(height, width, size, multiple, expected):
  assert interpolate.network_size(height, width, size=size, multiple=multiple) == expected


def test_preprocessing_normalizes_and_passes_derivatives():
  image = jax.random.uniform(jax.random.key(0), (2, 6, 4, 3))
  np.testing.assert_allclose(interpolate.preprocess(image, shape=(6, 4), normalization='midas'),
                             2 * image - 1, atol=1e-6)
  np.testing.assert_array_equal(interpolate.preprocess(image, shape=(6, 4),
                                                       normalization='omnidata_normal'), image)
  white = interpolate.preprocess(jnp.ones((1, 6, 4, 3)), shape=(28, 14), normalization='imagenet')
  np.testing.assert_allclose(white[0, 5, 5], [2.2489, 2.4286, 2.64], atol=1e-4)
  slope = jax.grad(lambda x: interpolate.preprocess(x, shape=(28, 14),
                                                    normalization='midas').mean())(image)
  np.testing.assert_allclose(slope.sum(), 2, rtol=1e-5)  # of a mean over all pixels, and 1 / std


def test_normals_have_length_one_and_finite_derivatives():
  out = jnp.array([[[[1., .5, .5], [.5, .5, 0.], [.5, .5, .5], [2., 2., 2.]]]])
  n = dpt.unit_normals(out)
  np.testing.assert_allclose(n[0, 0, :2], [[1., 0., 0.], [0., 0., -1.]], atol=1e-6)
  np.testing.assert_allclose(n[0, 0, 3], 3 ** -.5, rtol=1e-6)
  assert jnp.isfinite(jax.grad(lambda o: dpt.unit_normals(o).sum())(out)).all()
