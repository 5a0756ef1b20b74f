"""LoRA files beside a model (Hu et al. 2021), merged into its weights while they are read: W +
scale alpha / rank up @ down.

    parts = loras.added(diffusers_folder.open_model(path), 'style.safetensors', scale=.8,
                        option='config.prior.lora')

Layouts, by the names of the tensors:
    kohya       lora_unet_down_blocks_0_..._to_q.lora_down.weight, .lora_up.weight, .alpha;
                lora_te_, lora_te1_, lora_te2_; the blocks by diffusers' names or by those of the
                original code (lora_unet_input_blocks_4_1_...)
    diffusers   unet.down_blocks.0....to_q.lora_A.weight, .lora_B.weight, and older releases'
                .lora.down, .lora_linear_layer.down and .processor.to_q_lora.down; text_encoder.,
                text_encoder_2.; peft's settings in the metadata

The sum is float32's, and then the dtype's that the model is wanted in. ValueError, one line, for a
tensor of no layer of the model: a LoRA that is read in part would be another one.
"""
import json
import math
import os
import re
from typing import Any, NamedTuple

import numpy as np

from jaxdreamer.weights import foreign, safe_files, safetensors_io, tensor_files
from jaxdreamer.weights.tensor_files import Tensors

ROLES = ((re.compile(
    r'\.(lora_down|lora_A|lora\.down|lora_linear_layer\.down|down)(\.default)?\.weight$'), 'down'),
         (re.compile(r'\.(lora_up|lora_B|lora\.up|lora_linear_layer\.up|up)(\.default)?\.weight$'),
          'up'),
         (re.compile(r'\.alpha$'), 'alpha'))
# older releases put the layers into attention's processor
PROCESSOR = re.compile(r'(\.processor)?\.(to_[qkv]|to_out)_lora$')
RESNET = {'norm1': 'in_layers.0', 'conv1': 'in_layers.2', 'time_emb_proj': 'emb_layers.1',
          'norm2': 'out_layers.0',
          'conv2': 'out_layers.3', 'conv_shortcut': 'skip_connection'}
PLAIN = {'conv_in': 'input_blocks.0.0', 'conv_norm_out': 'out.0', 'conv_out': 'out.2',
         'time_embedding.linear_1': 'time_embed.0',
         'time_embedding.linear_2': 'time_embed.2', 'add_embedding.linear_1': 'label_emb.0.0',
         'add_embedding.linear_2': 'label_emb.0.2', 'mid_block.resnets.0': 'middle_block.0',
         'mid_block.attentions.0': 'middle_block.1', 'mid_block.resnets.1': 'middle_block.2'}


class LowRank(NamedTuple):
  """What is added to a tensor of the published layout, [out, in] or [out, in, h, w]."""
  up: np.ndarray                         # [out, rank] float32
  down: np.ndarray                       # [rank, the rest] float32
  scale: float
  shape: tuple[int, ...]

  def tensor(self) -> np.ndarray:
    """scale * up @ down in the shape of the base's tensor."""
    return (self.scale * (self.up @ self.down)).reshape(self.shape)


def added(parts: dict[str, Any], path: str | os.PathLike, *, scale: float,
          option: str) -> dict[str, Any]:
  """The parts of diffusers_folder.open_model, those that the file at `path` changes with what it
  adds to them."""
  layers = {alias: (name, key, shape) for name, part in parts.items() if hasattr(part, 'changes')
            for key, shape in matrices(part).items()
            for alias in aliases(name, key.removesuffix('.weight'), part.config)}
  with tensor_files.opened(path) as file:
    groups, unknown = {}, []
    for key in file.entries:
      module, role = parse(key)
      if module in layers:
        groups.setdefault(module, {})[role] = key
      else:
        unknown.append(key)
    if not groups:
      said = foreign.keys(file.entries, file.metadata)
      said = 'is of another model: none of its layers is there' if said in (
          '', foreign.LORA) else said
      raise ValueError(f'{option}={os.fspath(path)!r} {said}; its tensors are '
                       f'{safe_files.listed(sorted(unknown)[:4])}')
    halves = [key for group in groups.values() if not {'down', 'up'} <= group.keys()
              for key in group.values()]
    if unknown or halves:
      raise ValueError(f'{option}={os.fspath(path)!r} does not fit the model: tensors of no layer '
                       'of it, or not of a plain LoRA, '
                       f'{safe_files.listed(sorted(unknown))}, without their other half '
                       f'{safe_files.listed(sorted(halves))}')
    changes = {}
    for module, group in groups.items():
      name, key, shape = layers[module]
      if key in changes.setdefault(name, {}):
        raise ValueError(f'{option}={os.fspath(path)!r} changes {name} {key} twice, under '
                         'two names')
      changes[name][key] = low_rank(file, module, group, shape, scale, option)
  return parts | {name: parts[name]._replace(changes=found) for name, found in changes.items()}


def matrices(part: Any) -> dict[str, tuple[int, ...]]:
  """{published key: shape} of the weights of a part that are matrices or convolutions, from the
  head of its files."""
  found = {}
  with tensor_files.opened_all(part.file) as files:
    for file in files:
      for key, entry in file.entries.items():
        for new, view in safetensors_io.renamed(key, part.rename):
          shape = safetensors_io.viewed(view, ('',), np.broadcast_to(False, entry.shape)).shape
          if new.endswith('.weight') and len(shape) in (2, 4):
            found[new] = shape
  return found


def aliases(name: str, layer: str, config: dict) -> list[str]:
  """The names that LoRA files give to a layer, a published key without '.weight', of the part
  `name`."""
  flat = lambda key: key.replace('.', '_')
  if name == 'unet':
    old = original(layer, config)
    return [layer, f'unet.{layer}', f'lora_unet_{flat(layer)}',
            *([f'lora_unet_{flat(old)}'] if old else [])]
  if name in ('text_encoder', 'text_encoder_2'):
    bare = layer.removeprefix('text_model.')
    full = layer if layer.startswith('text_projection') else f'text_model.{bare}'
    starts = ('lora_te_', 'lora_te1_') if name == 'text_encoder' else ('lora_te2_',)
    return [f'{name}.{full}', f'{name}.{bare}', *(start + flat(full) for start in starts)]
  return []


def original(layer: str, config: dict) -> str:
  """A layer of the UNet by its name in the original latent-diffusion code; '' where it has none."""
  if (plain := max((p for p in PLAIN if f'{layer}.'.startswith(f'{p}.')), default=None,
                   key=len)) is not None:
    block, rest = PLAIN[plain], layer[len(plain):].strip('.')
  elif match := re.match(
      r'(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.?(.*)',
      layer):
    side, level, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    many = config.get('layers_per_block', 2)
    if side == 'down':
      first = 1 + level * (many + 1)
      block = (f'input_blocks.{first + many}.0' if kind == 'downsamplers'
               else f'input_blocks.{first + number}.{int(kind == "attentions")}')
      rest = rest.replace('conv', 'op', 1) if kind == 'downsamplers' else rest
    else:
      first, attends = level * (many + 1), config['up_block_types'][level].startswith('CrossAttn')
      block = (f'output_blocks.{first + many}.{1 + attends}' if kind == 'upsamplers'
               else f'output_blocks.{first + number}.{int(kind == "attentions")}')
  else:
    return ''
  if '.resnets.' in layer:
    rest = RESNET.get(rest, rest)
  return f'{block}.{rest}'.strip('.')


def parse(key: str) -> tuple[str, str]:
  """(layer, 'down', 'up' or 'alpha') of a tensor of a LoRA file; (key, '') of any other."""
  key = key.removeprefix('base_model.model.')
  for pattern, role in ROLES:
    if found := pattern.search(key):
      layer = key[:found.start()]
      if processor := PROCESSOR.search(layer):
        layer = f'{layer[:processor.start()]}.{processor[2]}' + ('.0' if processor[2] == 'to_out'
                                                                 else '')
      return layer, role
  return key, ''


def low_rank(file: Tensors, module: str, group: dict[str, str], shape: tuple[int, ...],
             scale: float, option: str) -> LowRank:
  """What the tensors `group` {role: key} of a file add to a layer of this shape."""
  up, down = (file.read(group[role]).astype(np.float32) for role in ('up', 'down'))
  rank = len(down)
  if (up.ndim < 2 or down.ndim < 2 or math.prod(up.shape) != shape[0] * rank
      or up.shape[:2] != (shape[0], rank)
      or down.shape[1] != shape[1] or math.prod(down.shape) != rank * math.prod(shape[1:])):
    raise ValueError(f'{option}={os.fspath(file.path)!r}: {module} is {up.shape} by {down.shape}, '
                     f'for a weight of {shape}')
  alpha, divisor = settings(file, module, rank, option)
  if 'alpha' in group:
    alpha, divisor = float(file.read(group['alpha']).reshape(-1)[0]), rank
  found = LowRank(up.reshape(shape[0], rank), down.reshape(rank, -1), scale * alpha / divisor,
                  shape)
  if not (np.isfinite(found.up).all() and np.isfinite(found.down).all()
          and math.isfinite(found.scale)):
    raise ValueError(f'{option}={os.fspath(file.path)!r}: {module} holds values that are '
                     'not finite')
  return found


def settings(file: Tensors, module: str, rank: int, option: str) -> tuple[float, float]:
  """(alpha, what divides it) of a layer by peft's settings in the metadata; without them alpha is
  the rank."""
  try:
    told = json.loads(file.metadata.get('lora_adapter_metadata', '{}'))
  except (ValueError, RecursionError):
    told = None
  if not isinstance(told, dict):
    raise ValueError(f'{option}={os.fspath(file.path)!r}: its lora_adapter_metadata is no '
                     'JSON object')
  part = module.partition('.')[0]
  get = lambda name: told.get(f'{part}.{name}', told.get(name))
  if get('use_dora'):
    raise ValueError(f'{option}={os.fspath(file.path)!r} is a DoRA, of which LoRA is a half: '
                     'take a LoRA')
  named = get('alpha_pattern') or {}
  alpha = next((value for key, value in named.items() if re.search(rf'(^|\.){re.escape(key)}$',
                                                                   module)), get('lora_alpha'))
  return float(rank if alpha is None else alpha), math.sqrt(rank) if get('use_rslora') else float(
      rank)
