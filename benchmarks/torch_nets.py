"""The UNet and the encoder of latent diffusion in plain PyTorch, to hold ours against where
diffusers is not: functions of {published key: tensor}, NCHW, in the maths of nn/unet.py and
nn/vae.py.

    p = tensors(params, device='cuda', dtype=torch.bfloat16)
    eps_hat = unet(p, config, z_t, timesteps, text, where)
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

from jaxdreamer.nn.unet import per_level
from jaxdreamer.nn.unet_config import DOWN, UP
from jaxdreamer.weights import safetensors_io


def tensors(tree, *, device, dtype=torch.float32):
  """The parameters of one of our networks by their published keys."""
  flat = {key: safetensors_io.transpose(path, np.asarray(x, np.float32), safetensors_io.TO_TORCH)
          for key, (path, x) in safetensors_io.keys_of(tree).items()}
  return {key: torch.from_numpy(np.array(x)).to(device, dtype) for key, x in flat.items()}


def random_tensors(tree, *, device, dtype, seed=0):
  """Small random parameters in the shapes of `tree`, drawn on the device."""
  generator = torch.Generator(device).manual_seed(seed)
  shapes = {key: safetensors_io.transpose(path, np.broadcast_to(np.float32(0.), x.shape),
                                          safetensors_io.TO_TORCH).shape
            for key, (path, x) in safetensors_io.keys_of(tree).items()}
  return {key: .02 * torch.randn(shape, generator=generator, device=device).to(dtype)
          for key, shape in shapes.items()}


def conv(p, at, x, *, stride=1, padding=1):
  return F.conv2d(x, p[f'{at}.weight'], p.get(f'{at}.bias'), stride, padding)


def linear(p, at, x):
  """With what a LoRA has beside it: lora.beside."""
  y = F.linear(x, p[f'{at}.weight'], p.get(f'{at}.bias'))
  if f'{at}.kernel_down' in p:
    y = y + x @ p[f'{at}.kernel_down'].to(x.dtype) @ p[f'{at}.kernel_up'].to(x.dtype)
  if f'{at}.kernel_change' in p:
    y = y + x @ p[f'{at}.kernel_change'].to(x.dtype) + p[f'{at}.bias_change'].to(x.dtype)
  return y


def group_norm(p, at, x, groups, eps):
  return F.group_norm(x, groups, p[f'{at}.weight'], p[f'{at}.bias'], eps)


def layer_norm(p, at, x):
  return F.layer_norm(x, x.shape[-1:], p[f'{at}.weight'], p[f'{at}.bias'], 1e-5)


def embedding(p, at, x):
  return linear(p, f'{at}.linear_2', F.silu(linear(p, f'{at}.linear_1', x)))


def sinusoids(t, width, *, flip, shift):
  half = width // 2
  steps = torch.arange(half, device=t.device, dtype=torch.float32)
  phase = t.float()[:, None] * torch.exp(-math.log(10_000.) * steps / (half - shift))
  parts = torch.cos(phase), torch.sin(phase)
  return torch.cat(parts if flip else parts[::-1], -1)


def attention(p, at, x, context, heads):
  split = lambda y: y.unflatten(-1, (heads, -1)).transpose(1, 2)
  q, k, v = (split(linear(p, f'{at}.{name}', y))
             for name, y in (('to_q', x), ('to_k', context), ('to_v', context)))
  mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
  return linear(p, f'{at}.to_out.0', mixed)


def transformer(p, at, x, text, *, cfg, level):
  levels = len(cfg.block_out_channels)
  heads = per_level(cfg.attention_head_dim, levels)[level]
  depth = per_level(cfg.transformer_layers_per_block, levels)[level]
  b, c, h, w = x.shape
  tokens = lambda y: y.flatten(2).transpose(1, 2)
  y = group_norm(p, f'{at}.norm', x, cfg.norm_num_groups, 1e-6)
  y = (linear(p, f'{at}.proj_in', tokens(y)) if cfg.use_linear_projection
       else tokens(conv(p, f'{at}.proj_in', y, padding=0)))
  for i in range(depth):
    block = f'{at}.transformer_blocks.{i}'
    n = layer_norm(p, f'{block}.norm1', y)
    y = y + attention(p, f'{block}.attn1', n, n, heads)
    y = y + attention(p, f'{block}.attn2', layer_norm(p, f'{block}.norm2', y), text, heads)
    value, gate = linear(p, f'{block}.ff.net.0.proj', layer_norm(p, f'{block}.norm3', y)).chunk(
      2, -1)
    y = y + linear(p, f'{block}.ff.net.2', value * F.gelu(gate))
  picture = lambda y: y.transpose(1, 2).reshape(b, c, h, w)
  return x + (picture(linear(p, f'{at}.proj_out', y)) if cfg.use_linear_projection
              else conv(p, f'{at}.proj_out', picture(y), padding=0))


def resnet(p, at, x, temb, *, groups, eps):
  h = conv(p, f'{at}.conv1', F.silu(group_norm(p, f'{at}.norm1', x, groups, eps)))
  if temb is not None:
    h = h + linear(p, f'{at}.time_emb_proj', F.silu(temb))[:, :, None, None]
  h = conv(p, f'{at}.conv2', F.silu(group_norm(p, f'{at}.norm2', h, groups, eps)))
  short = f'{at}.conv_shortcut'
  return h + (conv(p, short, x, padding=0) if f'{short}.weight' in p else x)


def time_embedding(p, cfg, t, where, pooled, sizes, dtype):
  waves = lambda t, width: sinusoids(t, width, flip=cfg.flip_sin_to_cos, shift=cfg.freq_shift)
  temb = embedding(p, 'time_embedding', waves(t, cfg.block_out_channels[0]).to(dtype))
  if cfg.class_embed_type:
    temb = temb + embedding(p, 'class_embedding', where.to(dtype))
  if cfg.addition_embed_type:
    told = waves(sizes.flatten(), cfg.addition_time_embed_dim).reshape(len(sizes), -1)
    temb = temb + embedding(p, 'add_embedding', torch.cat([pooled, told], -1).to(dtype))
  return temb


def unet(p, cfg, z_t, t, text, where=None, *, pooled=None, sizes=None):
  """eps_hat [B, 4, h, w] of z_t [B, 4, h, w], timesteps [B], text [B, L, D]; nn/unet.py's."""
  dtype, last = p['conv_in.weight'].dtype, len(cfg.block_out_channels) - 1
  options = {'groups': cfg.norm_num_groups, 'eps': cfg.norm_eps}
  temb = time_embedding(p, cfg, t, where, pooled, sizes, dtype)
  x, text = conv(p, 'conv_in', z_t.to(dtype)), text.to(dtype)
  skips = [x]
  for level, kind in enumerate(cfg.down_block_types):
    at = f'down_blocks.{level}'
    for i in range(cfg.layers_per_block):
      x = resnet(p, f'{at}.resnets.{i}', x, temb, **options)
      if DOWN[kind]:
        x = transformer(p, f'{at}.attentions.{i}', x, text, cfg=cfg, level=level)
      skips.append(x)
    if level < last:
      x = conv(p, f'{at}.downsamplers.0.conv', x, stride=2)
      skips.append(x)
  x = resnet(p, 'mid_block.resnets.0', x, temb, **options)
  x = transformer(p, 'mid_block.attentions.0', x, text, cfg=cfg, level=last)
  x = resnet(p, 'mid_block.resnets.1', x, temb, **options)
  for number, kind in enumerate(cfg.up_block_types):
    at = f'up_blocks.{number}'
    for i in range(cfg.layers_per_block + 1):
      x = resnet(p, f'{at}.resnets.{i}', torch.cat([x, skips.pop()], 1), temb, **options)
      if UP[kind]:
        x = transformer(p, f'{at}.attentions.{i}', x, text, cfg=cfg, level=last - number)
    if number < last:
      x = conv(p, f'{at}.upsamplers.0.conv', F.interpolate(x, scale_factor=2., mode='nearest'))
  x = F.silu(group_norm(p, 'conv_norm_out', x, **options))
  return conv(p, 'conv_out', x).float()


def encode(p, cfg, x):
  """(mean, logvar) [B, 4, h, w] of images [B, 3, H, W] in [-1, 1]; nn/vae.py's."""
  options = {'groups': cfg.norm_num_groups, 'eps': 1e-6}
  x = conv(p, 'encoder.conv_in', x.to(p['encoder.conv_in.weight'].dtype))
  for level in range(len(cfg.block_out_channels)):
    at = f'encoder.down_blocks.{level}'
    for i in range(cfg.layers_per_block):
      x = resnet(p, f'{at}.resnets.{i}', x, None, **options)
    if level < len(cfg.block_out_channels) - 1:
      x = conv(p, f'{at}.downsamplers.0.conv', F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
  at = 'encoder.mid_block'
  x = resnet(p, f'{at}.resnets.0', x, None, **options)
  y = group_norm(p, f'{at}.attentions.0.group_norm', x, **options).flatten(2).transpose(1, 2)
  x = x + attention(p, f'{at}.attentions.0', y, y, 1).transpose(1, 2).reshape(x.shape)
  x = resnet(p, f'{at}.resnets.1', x, None, **options)
  x = conv(p, 'encoder.conv_out', F.silu(group_norm(p, 'encoder.conv_norm_out', x, **options)))
  mean, logvar = conv(p, 'quant_conv', x, padding=0).float().chunk(2, 1)
  return mean, logvar.clamp(-30., 20.)
