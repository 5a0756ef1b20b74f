"""DPT-Hybrid in its authors' layout: every key of timm's and MiDaS's modules finds its place, and
means there what it meant."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdreamer import perception
from jaxdreamer.nn import bit, dpt
from jaxdreamer.weights import midas, safetensors_io

NORMS = ('weight', 'bias')
TINY = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48,
            image_size=64,
            backbone_out_indices=(0, 1, 1, 2), neck_hidden_sizes=(32, 64, 32, 32),
            fusion_hidden_size=16,
            backbone_config=bit.BitConfig(embedding_size=32, hidden_sizes=(32, 64, 96),
                                          depths=(2, 1, 1), num_groups=8))


def names(config):
  """{key: shape} of the authors' file, written down from their modules: a ViT on a ResNet of timm,
  MiDaS's decoder."""
  d, wide, fused, stem = (config.hidden_size, config.intermediate_size, config.fusion_hidden_size,
                          config.backbone_config)
  of = {'cls_token': (1, 1, d), 'pos_embed': (1, 1 + (config.image_size // 16) ** 2, d),
        'norm.weight': (d,), 'norm.bias': (d,),
        'head.weight': (1000, d), 'head.bias': (1000,),
        'patch_embed.proj.weight': (d, stem.hidden_sizes[-1], 1, 1),
        'patch_embed.proj.bias': (d,),
        'patch_embed.backbone.stem.conv.weight': (stem.embedding_size, 3, 7, 7)}
  of |= {f'patch_embed.backbone.stem.norm.{n}': (stem.embedding_size,) for n in NORMS}
  before = stem.embedding_size
  for i, (out, depth) in enumerate(zip(stem.hidden_sizes, stem.depths)):
    for j in range(depth):
      block, middle = f'patch_embed.backbone.stages.{i}.blocks.{j}.', out // 4
      convs = {'conv1': (middle, before, 1, 1), 'conv2': (middle, middle, 3, 3),
               'conv3': (out, middle, 1, 1)}
      convs |= {'downsample.conv': (out, before, 1, 1)} if j == 0 else {}
      for conv, shape in convs.items():
        of[f'{block}{conv}.weight'] = shape
        of |= {f'{block}{conv.replace("conv", "norm")}.{n}': shape[:1] for n in NORMS}
      before = out
  for i in range(config.num_hidden_layers):
    for name, shape in (('norm1', (d,)), ('norm2', (d,)), ('attn.qkv', (3 * d, d)),
                        ('attn.proj', (d, d)), ('mlp.fc1', (wide, d)),
                        ('mlp.fc2', (d, wide))):
      of |= {f'blocks.{i}.{name}.weight': shape, f'blocks.{i}.{name}.bias': shape[:1]}
  of = {f'pretrained.model.{key}': shape for key, shape in of.items()}
  convs = {}
  for i, width in enumerate(config.neck_hidden_sizes, 1):
    of[f'scratch.layer{i}_rn.weight'] = (fused, width, 3, 3)
    convs |= {f'scratch.refinenet{i}.resConfUnit{a}.conv{b}': (fused, fused, 3, 3) for a in (1, 2)
              for b in (1, 2)}
    convs[f'scratch.refinenet{i}.out_conv'] = (fused, fused, 1, 1)
    if i > 2:
      convs |= {f'pretrained.act_postprocess{i}.0.project.0': (d, 2 * d),
                f'pretrained.act_postprocess{i}.3': (width, d, 1, 1)}
  convs |= {'pretrained.act_postprocess4.4': (width, width, 3, 3),
            'scratch.output_conv.0': (fused // 2, fused, 3, 3),
            'scratch.output_conv.2': (32, fused // 2, 3, 3),
            'scratch.output_conv.4': (config.head_channels, 32, 1, 1)}
  return of | {f'{key}.weight': shape for key, shape in convs.items()} | {
      f'{key}.bias': shape[:1] for key, shape in convs.items()}


def write(path, config, prefix=''):
  """A file in the authors' layout, random numbers in it."""
  noise = np.random.RandomState(0)
  tensors = {prefix + key: .2 * noise.standard_normal(shape).astype(np.float32)
             for key, shape in names(config).items()}
  safetensors.numpy.save_file(tensors, path)
  return {key.removeprefix(prefix): value for key, value in tensors.items()}


def like(config):
  return jax.eval_shape(dpt.DPTForDepthEstimation(config).init, jax.random.key(0),
                        jnp.zeros((1, 64, 64, 3)))['params']


@pytest.mark.parametrize('channels', [1, 3])
def test_every_key_of_the_published_file_is_one_of_the_models(channels):
  config = dpt.DPTConfig(head_channels=channels)
  found = {new for key in names(config)
           for new, _ in safetensors_io.renamed(key, midas.MIDAS_RENAME)}
  assert found == set(safetensors_io.keys_of(like(config)))


@pytest.mark.slow
@pytest.mark.parametrize('prefix', ['', 'model.'])
def test_tensors_land_where_their_authors_meant_them(tmp_path, prefix):
  config = dpt.DPTConfig(**TINY, head_channels=3)
  tensors = write(tmp_path / 'normal.safetensors', config, prefix)
  got = safetensors_io.load(tmp_path / 'normal.safetensors', like(config),
                            rename=midas.MIDAS_RENAME)
  layer = got['dpt']['encoder']['layer_1']
  query, key, value = (layer['attention']['attention'][name] for name in ('query', 'key', 'value'))
  qkv, bias = (tensors[f'pretrained.model.blocks.1.attn.qkv.{name}'] for name in ('weight', 'bias'))
  np.testing.assert_array_equal(np.concatenate([query['kernel'].T, key['kernel'].T,
                                                value['kernel'].T]), qkv)
  np.testing.assert_array_equal(np.concatenate([query['bias'], key['bias'], value['bias']]), bias)
  np.testing.assert_array_equal(layer['layernorm_after']['scale'],
                                tensors['pretrained.model.blocks.1.norm2.weight'])
  np.testing.assert_array_equal(layer['output']['dense']['kernel'].T,
                                tensors['pretrained.model.blocks.1.mlp.fc2.weight'])
  fusion = got['neck']['fusion_stage']  # ours counts from the lowest map, theirs from the highest
  for ours, theirs in ((0, 4), (3, 1)):
    kernel = fusion[f'layers_{ours}']['residual_layer2']['convolution1']['kernel']
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1),
                                  tensors[f'scratch.refinenet{theirs}.resConfUnit2.conv1.weight'])
  stages = got['dpt']['embeddings']['backbone']['bit']['encoder']
  theirs = 'pretrained.model.patch_embed.backbone.stages.0.blocks.1.norm3.bias'
  np.testing.assert_array_equal(stages['stages_0']['layers_1']['norm3']['bias'], tensors[theirs])


@pytest.mark.slow
def test_a_file_is_an_eye_as_it_is_and_the_wrong_one_is_refused(tmp_path, monkeypatch):
  write(tmp_path / 'normal.safetensors', dpt.DPTConfig(**TINY, head_channels=3), 'model.')
  write(tmp_path / 'depth.safetensors', dpt.DPTConfig(**TINY))
  monkeypatch.setattr(midas.dpt, 'DPTConfig', functools.partial(dpt.DPTConfig, **TINY))
  x = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3))
  load, see = perception.normals(str(tmp_path / 'normal.safetensors'), size=64)
  np.testing.assert_allclose(jnp.linalg.norm(see(load(), x), axis=-1), 1., atol=1e-5)
  load, see = perception.depth(str(tmp_path / 'depth.safetensors'), size=64)
  assert see(load(), x).shape == (2, 64, 64)
  with pytest.raises(ValueError, match='config.estimator.ssd.normals=.*1 channels, 3 are wanted'):
    perception.normals(str(tmp_path / 'depth.safetensors'), size=64)
  with pytest.raises(ValueError, match='config.estimator.ssd.depth=.*3 channels, 1 are wanted'):
    perception.depth(str(tmp_path / 'normal.safetensors'), size=64)
  safetensors.numpy.save_file({'x': np.zeros(2, np.float32)}, tmp_path / 'other.safetensors')
  with pytest.raises(ValueError, match='no DPT-Hybrid of MiDaS or Omnidata'):
    perception.depth(str(tmp_path / 'other.safetensors'), size=64)


def test_what_is_not_in_the_file_is_timms(tmp_path):
  write(tmp_path / 'd.safetensors', dpt.DPTConfig(**TINY))
  assert midas.config(tmp_path / 'd.safetensors') == dataclasses.replace(dpt.DPTConfig(),
                                                                         layer_norm_eps=1e-6)
