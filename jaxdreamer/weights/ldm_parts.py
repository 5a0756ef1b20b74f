"""The parts of a Stable Diffusion in the key layout of the original latent-diffusion code (Rombach
et al. 2022): each part's config, in diffusers' and transformers' terms, from the shapes of the
tensors, and the rows for safetensors_io.load that read it. What shapes do not tell is the caller's:
heads, activations, scales.
"""
import re
from typing import Any

from jaxdreamer.nn.clip import CLIP_RENAME
from jaxdreamer.nn.mvdream import MVDREAM_RENAME
from jaxdreamer.weights.tensor_files import Tensors

UNET, VAE = 'model.diffusion_model.', 'first_stage_model.'
# Of no use here: a second copy of the UNet, tables of the schedule, and what the classes of text
# encoders hold besides their tower (tables of positions, temperatures, image towers, projections of
# towers that are read before theirs, words learned later).
LEFT_OVER = re.compile(
    r'(model_ema|denoiser|embedding_manager)\.'
    r'|(alphas|betas|sqrt|log|posterior|lvlb_weights|scale_factor|sigmas)\w*$'
    r'|(cond_stage_model|conditioner\.embedders\.\d+)\.(transformer\.|model\.)?'
    r'((\w+\.)*(position_ids|logit_scale|logit_bias|attn_mask)$'
    r'|(embedding_manager|vision_model|visual|visual_projection)\.)'
    r'|(cond_stage_model\.|conditioner\.embedders\.0\.)(transformer\.|model\.)?'
    r'text_projection(\.weight)?$')
MAX_BLOCKS = 64
LAYER = ('resnets', 'attentions')        # within an input block

RESNET_ROWS = (
    (r'\.in_layers\.0\.', '.norm1.'), (r'\.in_layers\.2\.', '.conv1.'),
    (r'\.emb_layers\.1\.', '.time_emb_proj.'),
    (r'\.out_layers\.0\.', '.norm2.'), (r'\.out_layers\.3\.', '.conv2.'),
    (r'\.skip_connection\.', '.conv_shortcut.'))
UNET_ROWS = (
    (r'^time_embed\.0\.', 'time_embedding.linear_1.'),
    (r'^time_embed\.2\.', 'time_embedding.linear_2.'),
    (r'^label_emb\.0\.0\.', 'add_embedding.linear_1.'),
    (r'^label_emb\.0\.2\.', 'add_embedding.linear_2.'),
    (r'^input_blocks\.0\.0\.', 'conv_in.'), (r'^out\.0\.', 'conv_norm_out.'),
    (r'^out\.2\.', 'conv_out.'),
    (r'^middle_block\.0\.', 'mid_block.resnets.0.'),
    (r'^middle_block\.1\.', 'mid_block.attentions.0.'),
    (r'^middle_block\.2\.', 'mid_block.resnets.1.'))


def matrix(x: Any) -> Any:
  """The weight of a 1x1 convolution as that of a dense layer."""
  return x.reshape(x.shape[:2]) if x.shape[2:] == (1, 1) else x


def transposed(x: Any) -> Any:
  """x @ P as the weight of a dense layer."""
  return x.T


VAE_ROWS = (
    (r'\.nin_shortcut\.', '.conv_shortcut.'), (r'\.norm_out\.', '.conv_norm_out.'),
    (r'^(encoder|decoder)\.mid\.block_1\.', r'\1.mid_block.resnets.0.'),
    (r'^(encoder|decoder)\.mid\.block_2\.', r'\1.mid_block.resnets.1.'),
    (r'^(encoder|decoder)\.mid\.attn_1\.', r'\1.mid_block.attentions.0.'),
    (r'(attentions\.0)\.norm\.', r'\1.group_norm.'),
    *((rf'(attentions\.0)\.{old}\.weight$', rf'\1.{new}.weight', matrix)
      for old, new in (('q', 'to_q'), ('k', 'to_k'), ('v', 'to_v'), ('proj_out', 'to_out.0'))),
    *((rf'(attentions\.0)\.{old}\.bias$', rf'\1.{new}.bias')
      for old, new in (('q', 'to_q'), ('k', 'to_k'), ('v', 'to_v'), ('proj_out', 'to_out.0'))),
    (r'^encoder\.down\.(\d+)\.block\.', r'encoder.down_blocks.\1.resnets.'),
    (r'^encoder\.down\.(\d+)\.downsample\.', r'encoder.down_blocks.\1.downsamplers.0.'))
QKV = ('q_proj', 'k_proj', 'v_proj')
OPEN_CLIP_ROWS = (
    (r'^positional_embedding$', 'embeddings.position_embedding.weight'),
    (r'^token_embedding\.', 'embeddings.token_embedding.'),
    (r'^ln_final\.', 'final_layer_norm.'), (r'^transformer\.resblocks\.', 'encoder.layers.'),
    (r'\.ln_([12])\.', r'.layer_norm\1.'),
    (r'\.mlp\.c_fc\.', '.mlp.fc1.'), (r'\.mlp\.c_proj\.', '.mlp.fc2.'),
    (r'\.attn\.out_proj\.', '.self_attn.out_proj.'),
    (r'\.attn\.in_proj_(weight|bias)$', tuple(rf'.self_attn.{name}.\1' for name in QKV)))


class Shapes:
  """The shapes of the tensors under a prefix, asked for with the rank they must have."""

  def __init__(self, file: Tensors, prefix: str):
    self.path, self.prefix = file.path, prefix
    self.of = {key.removeprefix(prefix): entry.shape for key, entry in file.entries.items()
               if key.startswith(prefix)}
    words = [name.split('.')[:6] for name in self.of]
    self.starts = {'.'.join([*w[:n], '']) for w in words for n in range(1, len(w) + 1)}

  def __contains__(self, name: str) -> bool:
    return name in self.of

  def get(self, name: str, *ranks: int) -> tuple[int, ...]:
    """The shape of a tensor. ValueError if it is not there or of another rank."""
    if len(self.of.get(name, ())) not in ranks:
      found = self.of.get(name, 'missing')
      raise ValueError(f'{self.path} is no known Stable Diffusion: {self.prefix + name!r} is '
                       f'{found}, of rank {ranks} expected')
    return self.of[name]

  def count(self, template: str) -> int:
    """How many consecutive numbers from 0, put into the template, give the start of a name; at most
    six words long."""
    n = 0
    while n < MAX_BLOCKS and template.format(n) in self.starts:
      n += 1
    return n


def under(prefix: str) -> tuple[tuple, ...]:
  """Rows that keep the keys of a prefix but those left over, and take it off."""
  return (rf'^(?!{re.escape(prefix)})|^(?:{LEFT_OVER.pattern})',
          None), (rf'^{re.escape(prefix)}', '')


def unet(file: Tensors, heads: Any, *, prefix: str = UNET) -> tuple[dict, tuple]:
  """The UNet: a list of input blocks, one layer or one downsampler each, and of output blocks, one
  layer each."""
  s, rows, levels = Shapes(file, prefix), [], [[]]
  for i in range(1, s.count('input_blocks.{}.')):
    if f'input_blocks.{i}.0.op.weight' in s:
      rows.append((rf'^input_blocks\.{i}\.0\.op\.',
                   f'down_blocks.{len(levels) - 1}.downsamplers.0.conv.'))
      levels.append([])
    else:
      where = f'down_blocks.{len(levels) - 1}', len(levels[-1])
      rows += [(rf'^input_blocks\.{i}\.{j}\.', f'{where[0]}.{kind}.{where[1]}.')
               for j, kind in enumerate(LAYER)]
      levels[-1].append(i)
  layers = len(levels[0])
  for i in range(s.count('output_blocks.{}.')):
    level, layer = divmod(i, layers + 1)
    attends = f'output_blocks.{i}.1.norm.weight' in s
    names = [f'resnets.{layer}', *[f'attentions.{layer}'] * attends, 'upsamplers.0']
    rows += [(rf'^output_blocks\.{i}\.{j}\.', f'up_blocks.{level}.{name}.')
             for j, name in enumerate(names)]

  channels = [s.get(f'input_blocks.{level[0]}.0.out_layers.3.weight', 4)[0]
              for level in levels if level]
  attends = [f'input_blocks.{level[0]}.1.norm.weight' in s for level in levels if level]
  depth = [s.count(f'input_blocks.{level[0]}.1.transformer_blocks.{{}}.') or 1
           for level in levels if level]
  middle = 'middle_block.1.transformer_blocks.0.attn2.to_k.weight'
  config = dict(
      _class_name='UNet2DConditionModel', in_channels=s.get('input_blocks.0.0.weight', 4)[1],
      out_channels=s.get('out.2.weight', 4)[0], block_out_channels=channels,
      layers_per_block=layers,
      down_block_types=['CrossAttnDownBlock2D' if a else 'DownBlock2D' for a in attends],
      up_block_types=['CrossAttnUpBlock2D' if a else 'UpBlock2D' for a in reversed(attends)],
      cross_attention_dim=s.get(middle, 2)[1], attention_head_dim=heads(channels),
      transformer_layers_per_block=1 if set(depth) == {1} else depth,
      use_linear_projection=len(s.get('middle_block.1.proj_in.weight', 2, 4)) == 2)
  if 'label_emb.0.0.weight' in s:
    config |= dict(addition_embed_type='text_time', addition_time_embed_dim=256,
                   projection_class_embeddings_input_dim=s.get('label_emb.0.0.weight', 2)[1])
  if 'camera_embed.0.weight' in s:
    config |= dict(class_embed_type='projection',
                   projection_class_embeddings_input_dim=s.get('camera_embed.0.weight', 2)[1])
  return config, (*under(prefix), *rows, *MVDREAM_RENAME, *UNET_ROWS, *RESNET_ROWS)


def vae(file: Tensors, scaling_factor: float) -> tuple[dict, tuple]:
  """The autoencoder; its decoder counts levels from the image, diffusers' from the latents."""
  s = Shapes(file, VAE)
  levels = s.count('encoder.down.{}.')
  config = dict(
      _class_name='AutoencoderKL', in_channels=s.get('encoder.conv_in.weight', 4)[1],
      out_channels=s.get('decoder.conv_out.weight', 4)[0],
      latent_channels=s.get('post_quant_conv.weight', 4)[0],
      block_out_channels=[s.get(f'encoder.down.{i}.block.0.conv2.weight', 4)[0]
                          for i in range(levels)],
      layers_per_block=s.count('encoder.down.0.block.{}.'),
      down_block_types=['DownEncoderBlock2D'] * levels,
      up_block_types=['UpDecoderBlock2D'] * levels, scaling_factor=scaling_factor)
  up = [(rf'^decoder\.up\.{i}\.{old}\.', f'decoder.up_blocks.{levels - 1 - i}.{new}.')
        for i in range(levels) for old, new in (('block', 'resnets'), ('upsample', 'upsamplers.0'))]
  return config, (*under(VAE), (r'^(loss|model_ema)\.', None), *up, *VAE_ROWS)


def clip(file: Tensors, prefix: str) -> tuple[dict, tuple]:
  """A text tower as transformers' older releases name it."""
  root = 'text_model.' if any(key.startswith(f'{prefix}text_model.')
                              for key in file.entries) else ''
  s = Shapes(file, prefix + root)
  return text_config(s, 'embeddings.token_embedding.weight', 'embeddings.position_embedding.weight',
                     'encoder.layers.0.mlp.fc1.weight', s.count('encoder.layers.{}.'),
                     'quick_gelu'), (*under(prefix), *CLIP_RENAME)


def open_clip(file: Tensors, prefix: str, projected: bool) -> tuple[dict, tuple]:
  """A text tower in OpenCLIP's layout: with its projection, or without projection and last
  layer."""
  s = Shapes(file, prefix)
  layers = s.count('transformer.resblocks.{}.')
  config = text_config(s, 'token_embedding.weight', 'positional_embedding',
                       'transformer.resblocks.0.mlp.c_fc.weight',
                       layers if projected else layers - 1, 'gelu')
  if projected:
    config |= dict(architectures=['CLIPTextModelWithProjection'],
                   projection_dim=s.get('text_projection', 2)[1])
    rows = (*OPEN_CLIP_ROWS, (r'^(?!text_projection)', 'text_model.'),
            (r'^text_projection$', 'text_projection.weight', transposed))
  else:
    rows = ((rf'^transformer\.resblocks\.{layers - 1}\.', None), *OPEN_CLIP_ROWS)
  return config, (*under(prefix), *rows)


def text_config(s: Shapes, token: str, position: str, mlp: str, layers: int,
                activation: str) -> dict:
  """The config.json of a text tower; every published one has heads of 64 and ends its vocabulary
  with EOS."""
  (vocabulary, width), (length, _), (inner, _) = (s.get(name, 2) for name in (token, position, mlp))
  return dict(architectures=['CLIPTextModel'], model_type='clip_text_model', vocab_size=vocabulary,
              hidden_size=width,
              intermediate_size=inner, num_hidden_layers=layers,
              num_attention_heads=max(1, width // 64),
              max_position_embeddings=length, hidden_act=activation, eos_token_id=vocabulary - 1,
              projection_dim=width)
