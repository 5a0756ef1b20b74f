"""DPT-Hybrid (Ranftl et al. 2021): one image to a map of disparity (Intel/dpt-hybrid-midas) or of
normals (Omnidata).

transformers' DPTForDepthEstimation with is_hybrid: BiT's first three stages, a ViT on the last, a
convolutional decoder over two maps of the one and two of the other. `DPTConfig` has the names of
the published config.json and the parameter tree those of the published weights. Images [B, H, W, 3]
normalized by interpolate.preprocess ('midas', or 'omnidata_normal'), H and W multiples of 32
(torch's class takes image_size alone; other sizes resize the positions).
Output float32, never negative: [B, H, W], relative inverse depth, large is near; or [B, H, W,
head_channels] where that is more than 1. ValueError for other sizes, and for configs the class does
not know.
"""
import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.nn import bit, hf_config, interpolate, vit
from jaxdreamer.nn.dpt_neck import Neck


@dataclasses.dataclass(frozen=True)
class DPTConfig:
  """transformers' names, but `head_channels`; the defaults are dpt-hybrid-midas's."""
  hidden_size: int = 768
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  intermediate_size: int = 3072
  layer_norm_eps: float = 1e-12
  image_size: int = 384  # the size whose patches have one position each
  num_channels: int = 3
  qkv_bias: bool = True
  # the last two are layers, from 0; the first two are not read
  backbone_out_indices: tuple[int, ...] = (2, 5, 8, 11)
  reassemble_factors: tuple[float | int, ...] = (1, 1, 1, .5)  # the first two are not read
  neck_hidden_sizes: tuple[int, ...] = (256, 512, 768, 768)
  fusion_hidden_size: int = 256
  use_bias_in_fusion_residual: bool = True
  backbone_config: bit.BitConfig = bit.BitConfig()
  head_channels: int = 1                                 # 3 for normals

  def __post_init__(self):
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(f'DPTConfig: {self.hidden_size} is no multiple of '
                       f'{self.num_attention_heads} heads')
    if not len(self.neck_hidden_sizes) == len(self.reassemble_factors) == len(
        self.backbone_out_indices) == 4:
      raise ValueError(f'DPTConfig: neck_hidden_sizes {self.neck_hidden_sizes}, reassemble_factors '
                       f'{self.reassemble_factors}, '
                       f'backbone_out_indices {self.backbone_out_indices}; four of each')
    if self.neck_hidden_sizes[:2] != self.backbone_config.hidden_sizes[:2]:
      raise ValueError(f'DPTConfig: neck_hidden_sizes {self.neck_hidden_sizes} must begin with the '
                       'widths of the '
                       f'backbone, {self.backbone_config.hidden_sizes[:2]}')
    if tuple(self.reassemble_factors[2:]) != (1, .5):
      raise ValueError(f'DPTConfig: reassemble_factors {self.reassemble_factors} must end '
                       'with 1, 0.5')
    first, second = self.backbone_out_indices[2:]
    if not 0 <= first < second < self.num_hidden_layers:
      raise ValueError(f'DPTConfig: backbone_out_indices {self.backbone_out_indices} must ascend '
                       f'below {self.num_hidden_layers}')


FIXED = dict(model_type='dpt', is_hybrid=True, hidden_act='gelu', patch_size=16,
             readout_type='project', head_in_index=-1,
             use_batch_norm_in_fusion_residual=False, add_projection=False,
             neck_ignore_stages=(0, 1),
             use_timm_backbone=False)
DEFAULTS = dict(is_hybrid=False, reassemble_factors=(4, 2, 1, .5),
                neck_hidden_sizes=(96, 192, 384, 768))
IGNORED = ('use_auxiliary_head', 'auxiliary_loss_weight', 'semantic_loss_ignore_index',
           'semantic_classifier_dropout',
           'backbone_featmap_shape', 'pooler_output_size', 'pooler_act', 'use_pretrained_backbone')


def config_from_transformers(config: dict) -> DPTConfig:
  """The DPTConfig of a published config.json. ValueError lists every field that asks for maths this
  class lacks."""
  values = hf_config.fields_of(config, DPTConfig, defaults=DEFAULTS, fixed=FIXED, ignored=IGNORED)
  if values.get('use_bias_in_fusion_residual') is None:
    values['use_bias_in_fusion_residual'] = True
  backbone = values.pop('backbone_config', None)
  values['image_size'] = hf_config.side('DPTConfig', 'image_size',
                                        values.get('image_size', DPTConfig.image_size))
  return DPTConfig(**values, backbone_config=bit.BitConfig() if backbone is None
                   else bit.config_from_transformers(backbone))


def unit_normals(out: Float[Array, 'B H W 3']) -> Float[Array, 'B H W 3']:
  """Omnidata's output as unit vectors in its camera frame: [0, 1] to [-1, 1], then to length 1."""
  n = 2 * jnp.clip(out, 0, 1) - 1
  return n / jnp.sqrt(jnp.maximum((n * n).sum(-1, keepdims=True), 1e-12))


class HybridEmbeddings(nn.Module):
  """Images -> tokens of the backbone's last map, and its first two maps."""
  config: DPTConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> tuple[Float[Array, 'B N D'],
                                                          list[Float[Array, 'B _ _ _']]]:
    cfg = self.config
    cls_token = self.param('cls_token', vit.normal, (1, 1, cfg.hidden_size))
    positions = self.param('position_embeddings', vit.normal, (1, (cfg.image_size // 16) ** 2 + 1,
                                                               cfg.hidden_size))
    *maps, last = bit.BitBackbone(cfg.backbone_config, self.dtype, name='backbone')(x)
    patches = nn.Conv(cfg.hidden_size, (1, 1), dtype=self.dtype, name='projection')(last)
    return vit.tokens(patches, cls_token, positions, method='linear'), maps


class Encoder(nn.Module):
  """The stack of layers, the output of each kept."""
  config: DPTConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D']) -> list[Float[Array, 'B N D']]:
    cfg, states = self.config, []
    for i in range(cfg.num_hidden_layers):
      x = vit.Layer(cfg.num_attention_heads, cfg.intermediate_size, cfg.layer_norm_eps,
                    cfg.qkv_bias, self.dtype,
                    name=f'layer_{i}')(x)
      states.append(x)
    return states


class Hybrid(nn.Module):
  """Images -> the decoder's four features: two maps, then tokens of two layers."""
  config: DPTConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> list[Array]:
    cfg = self.config
    x, maps = HybridEmbeddings(cfg, self.dtype, name='embeddings')(x)
    states = Encoder(cfg, self.dtype, name='encoder')(x)
    if self.is_initializing():
      # in the checkpoint, needed by no output
      vit.layer_norm(cfg.layer_norm_eps, self.dtype, 'layernorm')(x)
    return [*maps, *(states[i] for i in cfg.backbone_out_indices[2:])]


class Head(nn.Module):
  """Three convolutions, twice the size after the first."""
  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B H W channels']:
    _, h, w, c = x.shape
    x = nn.Conv(c // 2, (3, 3), dtype=self.dtype, name='head_0')(x)
    x = interpolate.resize(x, (2 * h, 2 * w), align_corners=True)
    x = nn.relu(nn.Conv(32, (3, 3), dtype=self.dtype, name='head_2')(x))
    return nn.relu(nn.Conv(self.channels, (1, 1), dtype=self.dtype, name='head_4')(x))


class DPTForDepthEstimation(nn.Module):
  """Normalized images -> disparity or normals; see the module's docstring."""
  config: DPTConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, pixel_values: Float[Array, 'B H W C']) -> Float[Array, 'B H W'] | Float[
      Array, 'B H W N']:
    cfg = self.config
    _, h, w, channels = pixel_values.shape
    if h % 32 or w % 32 or channels != cfg.num_channels:
      raise ValueError(f'DPTForDepthEstimation: images of {h} x {w} x {channels}; sides must be '
                       'multiples of 32, '
                       f'with {cfg.num_channels} channels')
    features = Hybrid(cfg, self.dtype, name='dpt')(pixel_values)
    x = Neck(cfg.neck_hidden_sizes, cfg.reassemble_factors, cfg.fusion_hidden_size, True,
             cfg.use_bias_in_fusion_residual,
             self.dtype, name='neck')(features, (h // 16, w // 16))
    x = Head(cfg.head_channels, self.dtype, name='head')(x).astype(jnp.float32)
    return x[..., 0] if cfg.head_channels == 1 else x
