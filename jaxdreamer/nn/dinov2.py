"""DINOv2 (Oquab et al. 2024) as a backbone: transformers' Dinov2Backbone, whose hidden states feed
Depth Anything.

NHWC in, sides multiples of patch_size; a list of tokens [B, 1 + h w, D] out, one per out_indices (0
is the embedding, i the output of layer i), normalized if apply_layernorm. Positions are resized
with torch's bicubic kernel.
The tree has the names of published files; DINOV2_RENAME reads those of transformers 5 too.
"""
import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.nn import hf_config, vit
from jaxdreamer.nn.layers import gelu

# For loading: transformers 5 gave the attention layers shorter names.
DINOV2_RENAME = ((r'\.attention\.q_proj\.', '.attention.attention.query.'),
                 (r'\.attention\.k_proj\.', '.attention.attention.key.'),
                 (r'\.attention\.v_proj\.', '.attention.attention.value.'),
                 (r'\.attention\.o_proj\.', '.attention.output.dense.'))


@dataclasses.dataclass(frozen=True)
class Dinov2Config:
  """transformers' names; the defaults are Depth-Anything-V2-Small's."""
  hidden_size: int = 384
  num_hidden_layers: int = 12
  num_attention_heads: int = 6
  mlp_ratio: int = 4
  layer_norm_eps: float = 1e-6
  image_size: int = 518  # the size whose patches have one position each
  patch_size: int = 14
  num_channels: int = 3
  qkv_bias: bool = True
  use_mask_token: bool = True  # held by the checkpoint, needed by no output
  apply_layernorm: bool = True
  out_indices: tuple[int, ...] = (3, 6, 9, 12)

  def __post_init__(self):
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(f'Dinov2Config: {self.hidden_size} is no multiple of '
                       f'{self.num_attention_heads} heads')
    steps = (-1, *self.out_indices, self.num_hidden_layers + 1)
    if any(a >= b for a, b in zip(steps, steps[1:])):
      raise ValueError(f'Dinov2Config: out_indices {self.out_indices} must ascend within '
                       f'0..{self.num_hidden_layers}')


FIXED = dict(model_type='dinov2', hidden_act='gelu', use_swiglu_ffn=False,
             reshape_hidden_states=False)
DEFAULTS = dict(hidden_size=768, num_attention_heads=12, image_size=224, reshape_hidden_states=True)


def config_from_transformers(config: dict) -> Dinov2Config:
  """The Dinov2Config of a backbone_config. ValueError lists every field that asks for maths this
  class lacks."""
  values = hf_config.fields_of(config, Dinov2Config, defaults=DEFAULTS, fixed=FIXED,
                               ignored=('out_features', 'layerscale_value'))  # an initial value
  depth = values.get('num_hidden_layers', Dinov2Config.num_hidden_layers)
  values['out_indices'] = hf_config.stage_indices('Dinov2Config', config, depth)
  for name in ('image_size', 'patch_size'):
    values[name] = hf_config.side('Dinov2Config', name,
                                  values.get(name, getattr(Dinov2Config, name)))
  return Dinov2Config(**values)


class PatchEmbeddings(nn.Module):
  """One strided convolution."""
  config: Dinov2Config
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    patch = (self.config.patch_size,) * 2
    return nn.Conv(self.config.hidden_size, patch, patch, 'VALID', dtype=self.dtype,
                   name='projection')(x)


class Embeddings(nn.Module):
  """Patches, class token, positions."""
  config: Dinov2Config
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B N D']:
    cfg = self.config
    cls_token = self.param('cls_token', vit.normal, (1, 1, cfg.hidden_size))
    positions = self.param('position_embeddings', vit.normal,
                           (1, (cfg.image_size // cfg.patch_size) ** 2 + 1, cfg.hidden_size))
    if cfg.use_mask_token:
      self.param('mask_token', nn.initializers.zeros_init(), (1, cfg.hidden_size))
    return vit.tokens(PatchEmbeddings(cfg, self.dtype, name='patch_embeddings')(x), cls_token,
                      positions, method='cubic')


class LayerScale(nn.Module):
  """A learned factor per channel (Touvron et al. 2021)."""
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    factor = self.param('lambda1', nn.initializers.ones_init(), (x.shape[-1],))
    return x * factor.astype(self.dtype)[None, None]


class MLP(nn.Module):
  """Two dense layers and an exact gelu."""
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    h = gelu(nn.Dense(self.width, dtype=self.dtype, name='fc1')(x))
    return nn.Dense(x.shape[-1], dtype=self.dtype, name='fc2')(h)


class Layer(nn.Module):
  """Pre-norm transformer layer with scaled branches."""
  config: Dinov2Config
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    cfg = self.config
    h = vit.layer_norm(cfg.layer_norm_eps, self.dtype, 'norm1')(x)
    h = vit.Attention(cfg.num_attention_heads, cfg.qkv_bias, self.dtype, name='attention')(h)
    x = x + LayerScale(self.dtype, name='layer_scale1')(h)
    h = vit.layer_norm(cfg.layer_norm_eps, self.dtype, 'norm2')(x)
    h = MLP(cfg.hidden_size * cfg.mlp_ratio, self.dtype, name='mlp')(h)
    return x + LayerScale(self.dtype, name='layer_scale2')(h)


class Encoder(nn.Module):
  """The stack of layers, what enters and what leaves each kept."""
  config: Dinov2Config
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D']) -> list[Float[Array, 'B N D']]:
    states = [x]
    for i in range(self.config.num_hidden_layers):
      states.append(Layer(self.config, self.dtype, name=f'layer_{i}')(states[-1]))
    return states


class Dinov2Backbone(nn.Module):
  """Images -> tokens at out_indices; see the module's docstring."""
  config: Dinov2Config
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> list[Float[Array, 'B N D']]:
    cfg = self.config
    x = Embeddings(cfg, self.dtype, name='embeddings')(x)
    states = Encoder(cfg, self.dtype, name='encoder')(x)
    norm = vit.layer_norm(cfg.layer_norm_eps, self.dtype, 'layernorm')
    if self.is_initializing() or cfg.apply_layernorm:    # the checkpoint holds it in any case
      normalized = [norm(states[i]) for i in cfg.out_indices]
    return normalized if cfg.apply_layernorm else [states[i] for i in cfg.out_indices]
