"""MVDream's UNet as its conversion for diffusers holds it (ashawkey/mvdream-sd2.1-diffusers): of
the class MultiViewUNetModel, whose config.json has the fields and whose weights have the names of
the original latent-diffusion code, those without a prefix.

    config, rows = described(home / 'config.json', config, home / 'model.safetensors')

gives what a Part of a UNet2DConditionModel has; ldm_parts.py reads all but the heads from shapes.
"""
import pathlib

from jaxdreamer.weights import ldm_parts, tensor_files

CLASS = 'MultiViewUNetModel'
# Fields that would be other maths, and what each may be. ImageDream's ip_dim is a picture's words.
FIXED = {'ip_dim': (0,), 'dims': (2,), 'conv_resample': (True,), 'use_scale_shift_norm': (False,),
         'resblock_updown': (False,), 'num_classes': (None,), 'n_embed': (None,),
         'num_attention_blocks': (None,), 'adm_in_channels': (None,), 'num_heads': (-1, None)}


def described(path: pathlib.Path, config: dict, file: pathlib.Path) -> tuple[dict, tuple]:
  """(config, rows for loading) in diffusers' terms of the UNet whose config.json, at `path`, is
  `config` and whose weights are in `file`, one or an index. ValueError for another network."""
  foreign = {k: config[k] for k, served in FIXED.items() if k in config and config[k] not in served}
  width, side = config.get('num_head_channels'), config.get('image_size')
  if not (isinstance(width, int) and width > 0 and isinstance(side, int) and side > 0):
    foreign |= {'num_head_channels': width, 'image_size': side}
  if foreign:
    raise ValueError(f'{path} says {str(foreign)[:200]}, which is no {CLASS} of MVDream')
  with tensor_files.opened_all(file) as shards:
    entries = {key: entry for shard in shards for key, entry in shard.entries.items()}
    found, rows = ldm_parts.unet(shards[0]._replace(path=file, entries=entries),
                                 lambda channels: [max(1, c // width) for c in channels], prefix='')
  return found | {'sample_size': side}, rows
