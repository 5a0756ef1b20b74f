"""CLIP's text tower (Radford et al. 2021): the text encoder of Stable Diffusion and, small, of the
toybox prior.
clip_vision.py holds the image tower.

`CLIPTextConfig` has the names of the published config.json, and the parameter tree the names of the
published weights without their old `text_model.` prefix: safetensors_io.load(path, like,
rename=CLIP_RENAME) reads both kinds of file.
input_ids [B, L] with L <= max_position_embeddings, padded on the right; the causal mask keeps
padding out of what comes before it. Returns (last_hidden_state [B, L, D], pooled [B, D],
penultimate [B, L, D]), float32: the first two after final_layer_norm, the third as it enters the
last layer (transformers' hidden_states[-2], what Stable Diffusion XL reads); pooled is the row of
the first EOS token (row 0 where there is none). ValueError for a sequence too long, and for unknown
configs.

CLIPTextModelWithProjection maps the pooled row into the space shared with images, and returns
(embedding [B, projection_dim], penultimate). Its files keep the prefix, so
safetensors_io.load takes rename=TEXT_PROJECTION_RENAME, which also reads files of both towers.
"""
import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdreamer.nn.attention import softmax_mixed
from jaxdreamer.nn.layers import gelu

ACTIVATIONS = {'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),
               'gelu': gelu}

# For loading: older files prefix every key, and carry the positions 0..L-1 as a tensor; some
# hold both towers, or what a training left.
LEFT_OVER = (
    r'^(vision_model|visual_projection|embedding_manager)\.'
    r'|(^|\.)(position_ids|logit_scale|logit_bias)$')
CLIP_RENAME = ((LEFT_OVER + r'|^text_projection(\.weight)?$', None), (r'^text_model\.', ''))
TEXT_PROJECTION_RENAME = ((LEFT_OVER, None),)

# transformers' defaults where they are not ours: a config.json may leave out what equals them.
LEFT_OUT = dict(hidden_size=512, intermediate_size=2048, num_attention_heads=8, projection_dim=512)


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig:
  """transformers' names; the defaults are CLIP ViT-L/14's, Stable Diffusion 1.x."""
  vocab_size: int = 49408
  hidden_size: int = 768
  intermediate_size: int = 3072
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  max_position_embeddings: int = 77
  hidden_act: str = 'quick_gelu'                         # or 'gelu' (Stable Diffusion 2.x)
  layer_norm_eps: float = 1e-5
  eos_token_id: int = 49407
  projection_dim: int = 768                              # for CLIPTextModelWithProjection alone
  causal: ClassVar[bool] = True                          # no field: every text tower is

  def __post_init__(self):
    if self.hidden_act not in ACTIVATIONS:
      raise ValueError(f'CLIPTextConfig: hidden_act {self.hidden_act!r}; known are '
                       f'{[*ACTIVATIONS]}')
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(f'CLIPTextConfig: {self.hidden_size} is no multiple of '
                       f'{self.num_attention_heads} heads')


def tower(config: dict, name: str) -> dict:
  """The values of one tower, 'text' or 'vision', in a published config.json of that tower or of
  both."""
  known = ('clip', f'clip_{name}_model', None)
  if config.get('model_type') not in known:
    raise ValueError(f'model_type {config["model_type"]!r} is no CLIP {name} tower; known are '
                     f'{known[:2]}')
  if f'{name}_config' not in config:
    return config
  # the projection's width is said once for both towers, and the towers' own fields may contradict
  # it
  return config[f'{name}_config'] | {k: config[k] for k in ('projection_dim',) if k in config}


def config_from_transformers(config: dict) -> CLIPTextConfig:
  """The CLIPTextConfig of a published config.json. Old ones say eos_token_id 2 and mean the
  vocabulary's last."""
  known = {f.name for f in dataclasses.fields(CLIPTextConfig)}
  values = LEFT_OUT | {k: v for k, v in tower(config, 'text').items() if k in known}
  if values.get('eos_token_id', 2) == 2:
    values['eos_token_id'] = values.get('vocab_size', CLIPTextConfig.vocab_size) - 1
  return CLIPTextConfig(**values)


class Embeddings(nn.Module):
  """Token plus learned position."""
  config: CLIPTextConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, input_ids: Int[Array, 'B L']) -> Float[Array, 'B L D']:
    def table(rows, name):
      return nn.Embed(rows, self.config.hidden_size, self.dtype,
                      embedding_init=nn.initializers.normal(.02), name=name)

    token = table(self.config.vocab_size, 'token_embedding')(input_ids)
    position = table(self.config.max_position_embeddings,
                     'position_embedding')(jnp.arange(input_ids.shape[1]))
    return token + position[None]


class SelfAttention(nn.Module):
  """Multi-head attention, causal where the config is."""
  config: Any  # a CLIPTextConfig or a CLIPVisionConfig, here and below
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
    heads = self.config.num_attention_heads
    b, length, width = x.shape
    q, k, v = [nn.Dense(width, dtype=self.dtype, name=name)(x).reshape(b, length, heads,
                                                                       width // heads)
               for name in ('q_proj', 'k_proj', 'v_proj')]
    mixed = softmax_mixed(q, k, v, causal=self.config.causal).reshape(
        b, length, width)
    return nn.Dense(width, dtype=self.dtype, name='out_proj')(mixed)


class MLP(nn.Module):
  """Two dense layers."""
  config: Any
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
    h = nn.Dense(self.config.intermediate_size, dtype=self.dtype, name='fc1')(x)
    return nn.Dense(x.shape[-1], dtype=self.dtype,
                    name='fc2')(ACTIVATIONS[self.config.hidden_act](h))


class Layer(nn.Module):
  """Pre-norm transformer layer."""
  config: Any
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
    cfg = self.config
    x = x + SelfAttention(cfg, self.dtype,
                          name='self_attn')(layer_norm(cfg, self.dtype, 'layer_norm1')(x))
    return x + MLP(cfg, self.dtype, name='mlp')(layer_norm(cfg, self.dtype, 'layer_norm2')(x))


class Encoder(nn.Module):
  """The stack of layers: what leaves the last one, and what entered it."""
  config: Any
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> tuple[Float[Array, 'B L D'],
                                                        Float[Array, 'B L D']]:
    entered = x
    for i in range(self.config.num_hidden_layers):
      entered, x = x, Layer(self.config, self.dtype, name=f'layers_{i}')(x)
    return x, entered


def layer_norm(cfg: Any, dtype: Any, name: str) -> nn.LayerNorm:
  """LayerNorm with the config's eps and two-pass statistics."""
  return nn.LayerNorm(cfg.layer_norm_eps, dtype, use_fast_variance=False, name=name)


class CLIPTextModel(nn.Module):
  """Token ids -> (last_hidden_state, pooled, penultimate); see the module's docstring."""
  config: CLIPTextConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, input_ids: Int[Array, 'B L']
               ) -> tuple[Float[Array, 'B L D'], Float[Array, 'B D'], Float[Array, 'B L D']]:
    cfg = self.config
    if input_ids.shape[1] > cfg.max_position_embeddings:
      raise ValueError(f'CLIPTextModel: {input_ids.shape[1]} tokens, at most '
                       f'{cfg.max_position_embeddings} are known')
    x, entered = Encoder(cfg, self.dtype,
                         name='encoder')(Embeddings(cfg, self.dtype, name='embeddings')(input_ids))
    x = layer_norm(cfg, self.dtype, 'final_layer_norm')(x).astype(jnp.float32)
    eos = jnp.argmax(input_ids == cfg.eos_token_id, axis=1)
    return x, jnp.take_along_axis(x, eos[:, None, None], axis=1)[:, 0], entered.astype(jnp.float32)


class CLIPTextModelWithProjection(nn.Module):
  """Token ids -> (embedding [B, projection_dim], not normalized, penultimate)."""
  config: CLIPTextConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, input_ids: Int[Array, 'B L']) -> tuple[Float[Array, 'B P'],
                                                            Float[Array, 'B L D']]:
    _, pooled, entered = CLIPTextModel(self.config, self.dtype, name='text_model')(input_ids)
    embedding = nn.Dense(self.config.projection_dim, use_bias=False, dtype=self.dtype,
                         name='text_projection')(pooled)
    return embedding.astype(jnp.float32), entered
