"""The image tower: order of patches, sizes, preprocessing, what it refuses. Parity:
parity/test_clip_vision_parity.py."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.nn import clip
from jaxdreamer.nn.clip import CLIPTextConfig, CLIPTextModelWithProjection
from jaxdreamer.nn.clip_vision import (
  MEAN,
  STD,
  CLIPVisionConfig,
  CLIPVisionModelWithProjection,
  config_from_transformers,
  preprocess,
)

SMALL = CLIPVisionConfig(hidden_size=16, intermediate_size=32, projection_dim=5,
                         num_hidden_layers=1,
                         num_attention_heads=4, image_size=8, patch_size=4)


def undone(x):
  """Preprocessed images back in [0, 1]."""
  return np.asarray(x) * STD + MEAN


def test_patches_have_no_order_but_their_positions():
  model, x = CLIPVisionModelWithProjection(SMALL), jax.random.normal(jax.random.key(0),
                                                                     (1, 8, 8, 3))
  params = jax.jit(model.init)(jax.random.key(1), x)['params']
  apply = jax.jit(model.apply)
  swapped = jnp.flip(x.reshape(1, 2, 4, 8, 3), 1).reshape(x.shape)  # rows of patches
  assert jnp.abs(apply({'params': params}, x) - apply({'params': params}, swapped)).max() > 1e-3
  position = params['vision_model']['embeddings']['position_embedding']
  position['embedding'] = jnp.zeros_like(position['embedding'])
  np.testing.assert_allclose(apply({'params': params}, x), apply({'params': params}, swapped),
                             atol=1e-5)


VISION_H = CLIPVisionConfig(hidden_size=1280, intermediate_size=5120, projection_dim=1024,
                            num_hidden_layers=32)
TEXT_H = CLIPTextConfig(hidden_size=1024, intermediate_size=4096, projection_dim=1024,
                        num_hidden_layers=24,
                        num_attention_heads=16)
TEXT_BIG_G = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, projection_dim=1280,
                            num_hidden_layers=32,
                            num_attention_heads=20)


@pytest.mark.slow
@pytest.mark.parametrize('towers, count', [
    ([CLIPVisionConfig(), CLIPTextConfig()], 427_616_512), ([VISION_H, TEXT_H], 986_109_440),
    ([TEXT_BIG_G], 694_659_840),
], ids=['ViT-L', 'OpenCLIP-H', 'bigG, text'])
def test_towers_have_as_many_parameters_as_the_published(towers, count):
  image, ids = jnp.zeros((1, 224, 224, 3)), jnp.zeros((1, 77), jnp.int32)
  of = {CLIPVisionConfig: (CLIPVisionModelWithProjection, image),
        CLIPTextConfig: (CLIPTextModelWithProjection, ids)}
  trees = [jax.eval_shape(of[type(c)][0](c).init, jax.random.key(0), of[type(c)][1])
           for c in towers]
  assert sum(leaf.size for leaf in jax.tree.leaves(trees)) == count


def test_preprocess_leaves_an_image_of_the_right_size_but_for_mean_and_std():
  x = jax.random.uniform(jax.random.key(0), (2, 6, 6, 3))
  np.testing.assert_allclose(undone(preprocess(x, size=6)), x, atol=1e-6)


@pytest.mark.parametrize('shape', [(6, 18), (18, 6), (7, 22)])
def test_preprocess_keeps_the_middle_and_the_proportions(shape):
  h, w = shape
  row, column = jnp.meshgrid(jnp.arange(h) + .5, jnp.arange(w) + .5, indexing='ij')
  x = jnp.stack([row / 32, column / 32, jnp.ones_like(row)], -1)[None]
  y = undone(preprocess(x, size=6))[0] * 32
  assert y.shape == (6, 6, 3)
  pitch = min(h, w) / 6
  np.testing.assert_allclose(np.diff(y[1:-1, :, 0], axis=0), pitch, atol=.1)
  np.testing.assert_allclose(np.diff(y[:, 1:-1, 1], axis=1), pitch, atol=.1)
  np.testing.assert_allclose(y[2:4, 2:4, :2].mean((0, 1)), [h / 2, w / 2], atol=.6)


def test_preprocess_clips_what_cubics_overshoot():
  x = jnp.zeros((1, 4, 4, 3)).at[:, :, 2:].set(1.)
  y = undone(preprocess(x, size=16))
  assert y.min() > -1e-6 and y.max() < 1 + 1e-6


def test_a_file_of_both_towers_is_read_and_its_projection_rules():
  both = {'model_type': 'clip', 'projection_dim': 1024,
          'text_config': {'hidden_size': 1024, 'num_attention_heads': 16},
          'vision_config': {'hidden_size': 1280, 'num_attention_heads': 16, 'projection_dim': 512,
                            'patch_size': 14}}
  vision, text = config_from_transformers(both), clip.config_from_transformers(both)
  assert (vision.hidden_size, vision.projection_dim, vision.intermediate_size) == (1280, 1024, 3072)
  assert (text.hidden_size, text.projection_dim, text.intermediate_size) == (1024, 1024, 2048)


def test_what_the_tower_cannot_serve_is_named():
  with pytest.raises(ValueError, match="'siglip_vision_model'"):
    config_from_transformers({'model_type': 'siglip_vision_model'})
  with pytest.raises(ValueError, match="'clip_vision_model' is no CLIP text tower"):
    clip.config_from_transformers({'model_type': 'clip_vision_model'})
  with pytest.raises(ValueError, match="hidden_act 'relu'"):
    CLIPVisionConfig(hidden_act='relu')
  with pytest.raises(ValueError, match='no multiple of 5 heads'):
    CLIPVisionConfig(num_attention_heads=5)
  with pytest.raises(ValueError, match='image_size'):
    config_from_transformers({'image_size': [224, 336]})
  with pytest.raises(ValueError, match=r'the config asks for \[B, 8, 8, 3\]'):
    jax.eval_shape(CLIPVisionModelWithProjection(SMALL).init, jax.random.key(0),
                   jnp.zeros((1, 8, 12, 3)))
