"""What a published config.json says of a UNet, and what of it unet.py serves. ValueError for all
else."""
import dataclasses

# type -> whether it attends to the text
DOWN = {'DownBlock2D': False, 'CrossAttnDownBlock2D': True}
UP = {'UpBlock2D': False, 'CrossAttnUpBlock2D': True}
# Fields of published config.json files that the network fixes, and the value it fixes each to.
FIXED = dict(act_fn='silu', center_input_sample=False, conv_in_kernel=3, conv_out_kernel=3,
             downsample_padding=1, dual_cross_attention=False, only_cross_attention=False,
             mid_block_scale_factor=1, mid_block_type='UNetMidBlock2DCrossAttn',
             resnet_time_scale_shift='default', attention_type='default',
             time_embedding_type='positional', class_embeddings_concat=False,
             resnet_skip_time_act=False, resnet_out_scale_factor=1.0)
# not maths of the network
IGNORED = ('sample_size', 'upcast_attention', 'dropout', 'addition_embed_type_num_heads')


@dataclasses.dataclass(frozen=True)
class UNetConfig:
  """diffusers' names and defaults. `attention_head_dim` is the number of heads, as there; scalars
  serve every level."""
  in_channels: int = 4
  out_channels: int = 4
  block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
  layers_per_block: int = 2
  down_block_types: tuple[str, ...] = ('CrossAttnDownBlock2D',) * 3 + ('DownBlock2D',)
  up_block_types: tuple[str, ...] = ('UpBlock2D',) + ('CrossAttnUpBlock2D',) * 3
  cross_attention_dim: int = 1280
  attention_head_dim: int | tuple[int, ...] = 8
  transformer_layers_per_block: int | tuple[int, ...] = 1
  norm_num_groups: int = 32
  norm_eps: float = 1e-5
  use_linear_projection: bool = False
  flip_sin_to_cos: bool = True
  freq_shift: int = 0
  class_embed_type: str | None = None                    # None or 'projection'
  addition_embed_type: str | None = None                 # None or 'text_time'
  addition_time_embed_dim: int | None = None  # of 'text_time': the sinusoids of each of time_ids
  projection_class_embeddings_input_dim: int | None = None         # what enters either embedding

  def __post_init__(self):
    levels = len(self.block_out_channels)
    if not levels == len(self.down_block_types) == len(self.up_block_types):
      raise ValueError(f'UNetConfig: {levels} block_out_channels, {len(self.down_block_types)} '
                       'down_block_types and '
                       f'{len(self.up_block_types)} up_block_types; one of each per level')
    unknown = [b for b in self.down_block_types if b not in DOWN] + [b for b in self.up_block_types
                                                                     if b not in UP]
    if unknown:
      raise ValueError(f'UNetConfig: unknown block types {unknown}; known are {[*DOWN, *UP]}')
    if self.class_embed_type not in (None, 'projection'):
      raise ValueError(f'UNetConfig: class_embed_type {self.class_embed_type!r}; known are None '
                       'and "projection"')
    if self.addition_embed_type not in (None, 'text_time'):
      raise ValueError(f'UNetConfig: addition_embed_type {self.addition_embed_type!r}; known are '
                       'None and "text_time"')
    embeddings = (self.class_embed_type is not None) + (self.addition_embed_type is not None)
    if embeddings != (self.projection_class_embeddings_input_dim is not None):
      raise ValueError('UNetConfig: projection_class_embeddings_input_dim and either '
                       'class_embed_type or addition_embed_type '
                       'go together')
    if (self.addition_embed_type is None) != (self.addition_time_embed_dim is None):
      raise ValueError('UNetConfig: addition_embed_type and addition_time_embed_dim go together')


def from_diffusers(config: dict) -> UNetConfig:
  """The UNetConfig of a published config.json. ValueError lists every field that asks for maths
  this class lacks."""
  known = {f.name for f in dataclasses.fields(UNetConfig)}
  rest = {k: v for k, v in config.items() if k not in known and k not in IGNORED
          and not k.startswith('_')}
  foreign = {k: v for k, v in rest.items() if v is not None and FIXED.get(k, ()) != v}
  if foreign:
    raise ValueError(f'this UNet cannot serve a checkpoint whose config.json says {foreign}')
  return UNetConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()
                       if k in known})
