"""Tiny depth estimators for the parity tests, with weights that depend on nothing but a key's name,
as in cases.py.

Residual branches and embeddings are small, so that the eps of a layer norm shows; what reads them
raw is large.
The last bias is positive, or the last relu would hide most of the image.
"""
import re

import cases
import numpy as np

BIT = dict(model_type='bit', embedding_size=16, hidden_sizes=[32, 64, 96, 128], depths=[2, 1, 2],
           num_groups=4,
           layer_type='bottleneck', global_padding='same', embedding_dynamic_padding=True,
           out_features=['stage1', 'stage2', 'stage3'])
DPTS = {
    'midas': dict(                       # layers 1 and 3 of 5 are read: the last is not
        is_hybrid=True, hidden_size=32, num_hidden_layers=5, num_attention_heads=4,
                  intermediate_size=48, image_size=64,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[32, 64, 40, 48],
                  reassemble_factors=[1, 1, 1, .5],
        fusion_hidden_size=16, backbone_featmap_shape=[1, 96, 4, 4], layer_norm_eps=1e-6,
                  backbone_config=BIT),
    'normals': dict(                     # three channels; no biases where the config can say so
        is_hybrid=True, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
                    intermediate_size=48, image_size=64,
        qkv_bias=False, use_bias_in_fusion_residual=False, backbone_out_indices=[0, 0, 1, 2],
        neck_hidden_sizes=[32, 64, 16, 24], reassemble_factors=[1, 1, 1, .5], fusion_hidden_size=8,
        backbone_featmap_shape=[1, 96, 4, 4], backbone_config=BIT | {'depths': [1, 2, 1]}),
}
HEAD_CHANNELS = {'midas': 1, 'normals': 3}
DEPTH_ANYTHINGS = {
    'relative': dict(
        reassemble_hidden_size=32, patch_size=14, neck_hidden_sizes=[8, 12, 16, 20],
        fusion_hidden_size=16,
        head_hidden_size=8, backbone_config=dict(
            model_type='dinov2', image_size=56, hidden_size=32, num_hidden_layers=5,
            num_attention_heads=4,
            out_indices=[1, 2, 4, 5], reshape_hidden_states=False)),
    'metric': dict(  # other patches, factors and features; the embedding itself, not normalized
        reassemble_hidden_size=24, patch_size=8, neck_hidden_sizes=[8, 12, 16],
                   reassemble_factors=[3, 1, .5],
        fusion_hidden_size=8, head_hidden_size=16, depth_estimation_type='metric', max_depth=20,
                   backbone_config=dict(
model_type='dinov2', image_size=40, patch_size=8, hidden_size=24, num_hidden_layers=3,
num_attention_heads=2,
mlp_ratio=2, qkv_bias=False, use_mask_token=False, apply_layernorm=False,
out_features=['stem', 'stage2', 'stage3'], reshape_hidden_states=False)),
}
# Height and width: the size of the position embedding, then others.
SIZES = {'midas': ((64, 64), (96, 64)), 'normals': ((64, 64),), 'relative': ((56, 56), (70, 42)),
         'metric': ((40, 40), (32, 56))}

SMALL = re.compile(
    r'cls_token|position_embeddings|(patch_embeddings|embeddings)\.projection'
    r'|output\.dense|o_proj|fc2')
LARGE = re.compile(r'readout_projects.*weight')
LAST_BIAS = re.compile(r'^head\.(head\.4|conv3)\.bias')


def published(key):
  """The key of transformers 5 as the files on the hub have it."""
  for new, old in (('q_proj', 'attention.query'), ('k_proj', 'attention.key'),
                   ('v_proj', 'attention.value'),
                   ('o_proj', 'output.dense')):
    key = re.sub(rf'\.attention\.{new}\.', f'.attention.{old}.', key)
  return key


def weight(key, shape):
  """A tensor for a torch key: about unit gain, scales about 1; see the module's docstring."""
  z = cases.random(key, *shape)
  if LAST_BIAS.search(key):
    return np.abs(z) + 1
  if key.endswith('bias') or 'token' in key or 'position' in key:
    z = .3 * z
  elif len(shape) == 1:
    z = 1 + .3 * z
  else:
    z = z / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
  return .02 * z if SMALL.search(key) else 20 * z if LARGE.search(key) else z


def image(name, size):
  """Two images [2, H, W, 3], about normalized."""
  return cases.random(f'image {name}', 2, *size, 3)


def cotangent(name, shape):
  """What is pulled back to the image."""
  return cases.random(f'cotangent {name}', *shape)


def sampled(x):
  """Every 37th number: 37 divides none of the sizes, so all rows and columns occur."""
  return np.ascontiguousarray(np.asarray(x, np.float32).ravel()[::37])
