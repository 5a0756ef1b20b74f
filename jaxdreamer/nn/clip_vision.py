"""CLIP's image tower (Radford et al. 2021) with its projection, for the similarity of images and
texts; NHWC.

    embedding = CLIPVisionModelWithProjection(config).apply(variables, preprocess(x,
    size=config.image_size))
Images x are [B, H, W, 3] in [0, 1]; embeddings [B, projection_dim] are float32 and not normalized:
the similarity is the cosine with that of CLIPTextModelWithProjection (clip.py). `CLIPVisionConfig`
has the names of the published config.json, and the parameter tree those of the published weights
(`pre_layrnorm` is theirs): safetensors_io.load(path, like, rename=VISION_RENAME) reads files of
this tower and of both. ValueError for images of another size or unknown configs.
"""
import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdreamer.nn import clip

# For loading: drop the other tower, the temperature, and the positions 0..N of older files.
VISION_RENAME = ((r'^(text_model|text_projection)\.|^logit_scale$|\.position_ids$', None),)

# transformers' defaults where they are not ours: a config.json may leave out what equals them.
LEFT_OUT = dict(hidden_size=768, intermediate_size=3072, projection_dim=512, num_hidden_layers=12,
                num_attention_heads=12,
                patch_size=32)

# of CLIP's training images, in [0, 1]
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
  """transformers' names; the defaults are CLIP ViT-L/14's."""
  hidden_size: int = 1024
  intermediate_size: int = 4096
  projection_dim: int = 768
  num_hidden_layers: int = 24
  num_attention_heads: int = 16
  num_channels: int = 3
  image_size: int = 224
  patch_size: int = 14
  hidden_act: str = 'quick_gelu'                         # or 'gelu' (OpenCLIP)
  layer_norm_eps: float = 1e-5
  causal: ClassVar[bool] = False                         # no field: patches have no order

  def __post_init__(self):
    if self.hidden_act not in clip.ACTIVATIONS:
      raise ValueError(f'CLIPVisionConfig: hidden_act {self.hidden_act!r}; known are '
                       f'{[*clip.ACTIVATIONS]}')
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(f'CLIPVisionConfig: {self.hidden_size} is no multiple of '
                       f'{self.num_attention_heads} heads')


def config_from_transformers(config: dict) -> CLIPVisionConfig:
  """The CLIPVisionConfig of a published config.json, of this tower or of both."""
  known = {f.name for f in dataclasses.fields(CLIPVisionConfig)}
  values = LEFT_OUT | {k: v for k, v in clip.tower(config, 'vision').items() if k in known}
  oblong = {k: v for k, v in values.items() if k in ('image_size', 'patch_size')
            and not isinstance(v, int)}
  if oblong:
    raise ValueError(f'this CLIP tower has square images and patches, a number each; config.json '
                     f'says {oblong}')
  return CLIPVisionConfig(**values)


def preprocess(x: Float[Array, 'B H W 3'], *, size: int) -> Float[Array, 'B size size 3']:
  """Images in [0, 1] as the tower wants them: the shorter side to `size`, the middle of the longer
  one, MEAN and STD.

  transformers' CLIPImageProcessor but for its rounding to 8 bits, which would stop gradients. Cubic
  with Keys' a = -1/2 and antialiasing, as in PIL; overshoot is clipped, as 8 bits do.
  """
  b, h, w, c = x.shape
  h2, w2 = max(size, size * h // w), max(size, size * w // h)
  top, left = (h2 - size) // 2, (w2 - size) // 2
  x = jax.image.resize(x.astype(jnp.float32), (b, h2, w2, c),
                       'cubic')[:, top:top + size, left:left + size]
  return (jnp.clip(x, 0., 1.) - MEAN[None, None, None]) / STD[None, None, None]


class VisionEmbeddings(nn.Module):
  """Patches through one matrix, a learned row before them, learned positions on all."""
  config: CLIPVisionConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B N D']:
    cfg, width = self.config, self.config.hidden_size
    patch = nn.Conv(width, (cfg.patch_size,) * 2, cfg.patch_size, padding='VALID', use_bias=False,
                    dtype=self.dtype,
                    name='patch_embedding')(x)
    patch = patch.reshape(x.shape[0], -1, width)
    first = self.param('class_embedding', nn.initializers.normal(width ** -.5),
                       (width,)).astype(self.dtype)
    tokens = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, width)), patch], 1)
    position = nn.Embed(tokens.shape[1], width, self.dtype,
                        embedding_init=nn.initializers.normal(.02),
                        name='position_embedding')(jnp.arange(tokens.shape[1]))
    return tokens + position[None]


class CLIPVisionModel(nn.Module):
  """Preprocessed images -> the first row of the last layer, normalized: [B, hidden_size],
  float32."""
  config: CLIPVisionConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B D']:
    cfg, dtype = self.config, self.dtype
    expected = (cfg.image_size, cfg.image_size, cfg.num_channels)
    if x.shape[1:] != expected:
      raise ValueError(f'CLIPVisionModel: images {x.shape}, the config asks for [B, '
                       f'{", ".join(map(str, expected))}]')
    h = VisionEmbeddings(cfg, dtype, name='embeddings')(x)
    h = clip.layer_norm(cfg, dtype, 'pre_layrnorm')(h)
    h, _ = clip.Encoder(cfg, dtype, name='encoder')(h)
    return clip.layer_norm(cfg, dtype, 'post_layernorm')(h[:, 0]).astype(jnp.float32)


class CLIPVisionModelWithProjection(nn.Module):
  """Preprocessed images -> embedding [B, projection_dim], not normalized."""
  config: CLIPVisionConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B P']:
    pooled = CLIPVisionModel(self.config, self.dtype, name='vision_model')(x)
    projection = nn.Dense(self.config.projection_dim, use_bias=False, dtype=self.dtype,
                          name='visual_projection')
    return projection(pooled).astype(jnp.float32)
