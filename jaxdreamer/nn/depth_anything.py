"""Depth Anything V1 and V2 (Yang et al. 2024): DINOv2 and DPT's decoder; transformers'
DepthAnythingForDepthEstimation.

`DepthAnythingConfig` has the names of the published config.json; safetensors_io.load(path, like,
rename=DINOV2_RENAME) reads the published weights. Images [B, H, W, 3] normalized by
interpolate.preprocess ('imagenet'), H and W multiples of patch_size (torch's class crops others in
silence). Output [B, H, W], float32: relative inverse depth, large is near and never negative; or,
for 'metric', depth in metres up to max_depth. ValueError for other sizes and for configs the class
does not know.
"""
import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.nn import dinov2, hf_config, interpolate
from jaxdreamer.nn.dpt_neck import Neck

ACTIVATIONS = {'relative': nn.relu, 'metric': nn.sigmoid}


@dataclasses.dataclass(frozen=True)
class DepthAnythingConfig:
  """transformers' names; the defaults are Depth-Anything-V2-Small's."""
  backbone_config: dinov2.Dinov2Config = dinov2.Dinov2Config()
  reassemble_factors: tuple[float | int, ...] = (4, 2, 1, .5)
  neck_hidden_sizes: tuple[int, ...] = (48, 96, 192, 384)
  fusion_hidden_size: int = 64
  head_hidden_size: int = 32
  depth_estimation_type: str = 'relative'                # or 'metric'
  max_depth: float = 1.

  def __post_init__(self):
    if self.depth_estimation_type not in ACTIVATIONS:
      raise ValueError(f'DepthAnythingConfig: depth_estimation_type '
                       f'{self.depth_estimation_type!r}; known are {[*ACTIVATIONS]}')
    maps = len(self.backbone_config.out_indices)
    if not maps == len(self.neck_hidden_sizes) == len(self.reassemble_factors):
      raise ValueError(f'DepthAnythingConfig: {maps} out_indices, neck_hidden_sizes '
                       f'{self.neck_hidden_sizes}, '
                       f'reassemble_factors {self.reassemble_factors}; one of each per map')
    if any(f != round(f) and 1 / f != round(1 / f) for f in self.reassemble_factors):
      raise ValueError(f'DepthAnythingConfig: reassemble_factors {self.reassemble_factors} or '
                       'their inverses must be whole')


FIXED = dict(model_type='depth_anything', head_in_index=-1, use_timm_backbone=False)
IGNORED = ('patch_size', 'reassemble_hidden_size', 'use_pretrained_backbone')
V1_SMALL = dict(image_size=518, hidden_size=384, num_attention_heads=6, out_indices=(9, 10, 11, 12),
                reshape_hidden_states=False)  # transformers' backbone where a file names none


def config_from_transformers(config: dict) -> DepthAnythingConfig:
  """The DepthAnythingConfig of a published config.json. ValueError lists every field that asks for
  maths this class lacks."""
  values = hf_config.fields_of(config, DepthAnythingConfig, defaults={}, fixed=FIXED,
                               ignored=IGNORED)
  backbone = dinov2.config_from_transformers(values.pop('backbone_config', None) or V1_SMALL)
  for name, ours in (('patch_size', backbone.patch_size), ('reassemble_hidden_size',
                                                           backbone.hidden_size)):
    theirs = hf_config.side('DepthAnythingConfig', name,
                            config.get(name,
                                       {'patch_size': 14, 'reassemble_hidden_size': 384}[name]))
    if theirs != ours:
      raise ValueError(f'DepthAnythingConfig: {name} {theirs}, but {ours} in the backbone')
  values['max_depth'] = float(values.get('max_depth') or 1)
  return DepthAnythingConfig(**values, backbone_config=backbone)


class Head(nn.Module):
  """Three convolutions; the size of the image after the first."""
  config: DepthAnythingConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C'], shape: tuple[int, int]) -> Float[Array, 'B H W']:
    cfg = self.config
    x = nn.Conv(x.shape[-1] // 2, (3, 3), dtype=self.dtype, name='conv1')(x)
    x = interpolate.resize(x, shape, align_corners=True)
    x = nn.relu(nn.Conv(cfg.head_hidden_size, (3, 3), dtype=self.dtype, name='conv2')(x))
    x = nn.Conv(1, (1, 1), dtype=self.dtype, name='conv3')(x)[..., 0].astype(jnp.float32)
    return ACTIVATIONS[cfg.depth_estimation_type](x) * cfg.max_depth


class DepthAnythingForDepthEstimation(nn.Module):
  """Normalized images -> inverse depth or depth; see the module's docstring."""
  config: DepthAnythingConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, pixel_values: Float[Array, 'B H W C']) -> Float[Array, 'B H W']:
    cfg = self.config
    _, h, w, channels = pixel_values.shape
    patch = cfg.backbone_config.patch_size
    if h % patch or w % patch or channels != cfg.backbone_config.num_channels:
      raise ValueError(f'DepthAnythingForDepthEstimation: images of {h} x {w} x {channels}; sides '
                       'must be multiples of '
                       f'{patch}, with {cfg.backbone_config.num_channels} channels')
    features = dinov2.Dinov2Backbone(cfg.backbone_config, self.dtype, name='backbone')(pixel_values)
    x = Neck(cfg.neck_hidden_sizes, cfg.reassemble_factors, cfg.fusion_hidden_size, False,
                 True, self.dtype,
                 name='neck')(features, (h // patch, w // patch))
    return Head(cfg, self.dtype, name='head')(x, (h, w))
