"""The original latent-diffusion code's names for diffusers' and transformers' tensors, written from
those names: the way back from weights/ldm_parts.py, built block by block where that reads a file's
structure from its keys.
parity/test_single_file_parity.py holds it to diffusers' own converter."""
import numpy as np

RESNET = {'norm1': 'in_layers.0', 'conv1': 'in_layers.2', 'time_emb_proj': 'emb_layers.1',
          'norm2': 'out_layers.0',
          'conv2': 'out_layers.3', 'conv_shortcut': 'skip_connection'}


def unet(tensors, config):
  """{LDM key: tensor} of a UNet."""
  levels, layers = len(config['block_out_channels']), config['layers_per_block']
  blocks = {'conv_in': 'input_blocks.0.0', 'conv_norm_out': 'out.0', 'conv_out': 'out.2',
            'time_embedding.linear_1': 'time_embed.0', 'time_embedding.linear_2': 'time_embed.2',
            'class_embedding.linear_1': 'camera_embed.0',
            'class_embedding.linear_2': 'camera_embed.2',
            'add_embedding.linear_1': 'label_emb.0.0', 'add_embedding.linear_2': 'label_emb.0.2',
            'mid_block.resnets.0': 'middle_block.0', 'mid_block.attentions.0': 'middle_block.1',
            'mid_block.resnets.1': 'middle_block.2'}
  n = 0
  for level in range(levels):
    for layer in range(layers):
      n += 1
      blocks[f'down_blocks.{level}.resnets.{layer}'] = f'input_blocks.{n}.0'
      blocks[f'down_blocks.{level}.attentions.{layer}'] = f'input_blocks.{n}.1'
    n += 1
    blocks[f'down_blocks.{level}.downsamplers.0.conv'] = f'input_blocks.{n}.0.op'
  n = 0
  for level, kind in enumerate(config['up_block_types']):
    for layer in range(layers + 1):
      blocks[f'up_blocks.{level}.resnets.{layer}'] = f'output_blocks.{n}.0'
      blocks[f'up_blocks.{level}.attentions.{layer}'] = f'output_blocks.{n}.1'
      n += 1
    last = 2 if kind == 'CrossAttnUpBlock2D' else 1
    blocks[f'up_blocks.{level}.upsamplers.0'] = f'output_blocks.{n - 1}.{last}'
  out = {}
  for key, value in tensors.items():
    block = max((b for b in blocks if key.startswith(f'{b}.')), key=len)
    rest = key[len(block) + 1:].split('.')
    if '.resnets.' in block:
      rest[0] = RESNET[rest[0]]
    out['.'.join([blocks[block], *rest])] = value
  assert len(out) == len(tensors)
  return out


def vae(tensors, config):
  """{LDM key: tensor} of an autoencoder: the decoder's levels count from the image, the attention
  is a convolution."""
  last = len(config['block_out_channels']) - 1
  attention = {'group_norm': 'norm', 'to_q': 'q', 'to_k': 'k', 'to_v': 'v', 'to_out': 'proj_out'}
  out = {}
  for key, value in tensors.items():
    words = key.split('.')
    if words[1] in ('down_blocks', 'up_blocks'):
      side, level, kind, rest = words[1], int(words[2]), words[3], words[4:]
      head = [words[0], 'down', str(level)] if side == 'down_blocks' else [words[0], 'up',
                                                                           str(last - level)]
      words = head + (['block', *rest] if kind == 'resnets'
                      else [kind.removesuffix('rs'), *rest[1:]])
      words = ['nin_shortcut' if w == 'conv_shortcut' else w for w in words]
    elif words[1] == 'mid_block' and words[2] == 'resnets':
      words = [words[0], 'mid', f'block_{int(words[3]) + 1}', *words[4:]]
    elif words[1] == 'mid_block':
      words = [words[0], 'mid', 'attn_1', attention[words[4]], words[-1]]
      value = value[:, :, None, None] if value.ndim == 2 else value
    elif words[1] == 'conv_norm_out':
      words[1] = 'norm_out'
    out['.'.join(words)] = value
  assert len(out) == len(tensors)
  return out


def open_clip(tensors):
  """{OpenCLIP key: tensor} of a text tower, of whose names `text_model.` has been taken."""
  names = {'layer_norm1': 'ln_1', 'layer_norm2': 'ln_2', 'fc1': 'c_fc', 'fc2': 'c_proj',
           'self_attn': 'attn'}
  tables = {'embeddings.position_embedding.weight': 'positional_embedding',
            'embeddings.token_embedding.weight':
            'token_embedding.weight', 'final_layer_norm.weight': 'ln_final.weight',
            'final_layer_norm.bias': 'ln_final.bias'}
  out = {}
  for key, value in tensors.items():
    words = key.split('.')
    if key in tables:
      out[tables[key]] = value
    elif key == 'text_projection.weight':
      out['text_projection'] = np.ascontiguousarray(value.T)
    elif words[-2] == 'q_proj':
      k, v = (tensors[key.replace('q_proj', name)] for name in ('k_proj', 'v_proj'))
      out[f'transformer.resblocks.{words[2]}.attn.in_proj_{words[-1]}'] = np.concatenate(
          [value, k, v])
    elif words[-2] not in ('k_proj', 'v_proj'):
      out['.'.join(['transformer.resblocks', words[2],
                    *(names.get(w, w) for w in words[3:])])] = value
  return out
