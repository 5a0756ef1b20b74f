"""What a file or folder is that is no whole Stable Diffusion, by the names in it, and what to do
with it.

Each function returns words to follow the path in an error, '' where nothing tells.
"""
import pathlib
import re
from typing import Iterable

from jaxdreamer.weights import safe_files

WANTED = 'give the folder of a whole model, or its one .safetensors file'
SERVED = 'of Stable Diffusion 1.x, 2.x or XL'
LORA = ('is a LoRA, a change of a model and no model: give the model as config.prior.path and this '
        'as config.prior.lora')
REFINER = "is Stable Diffusion XL's refiner, which draws no picture of its own: give the base model"
# (what the names hold, what it is), in the order of asking.
KEYS = (
    (r'\.lora_(down|up|A|B)\.|\.lora\.(down|up)\.|_lora\.(down|up)\.|lora_linear_layer', LORA),
    (r'\.(hada_w\d|lokr_w\d|oft_blocks|oft_diag|dora_scale)\w*', 'is a LyCORIS change of a model '
     '(LoHa, LoKr or OFT) and no model: '
     'give the model; of its changes LoRA alone is read, as config.prior.lora'),
    (r'^(conditioner\.embedders\.0\.model)\.', REFINER),
    (r'^(control_model|controlnet_cond_embedding|controlnet_\w+)\.|^input_hint_block\.',
     f'is a ControlNet: {WANTED}'),
    (r'^(ip_adapter|image_proj)\.', f'is an IP-Adapter: {WANTED}'),
    (r'(^|\.)(motion_modules|temporal_transformer)\.', f'is a motion module: {WANTED}'),
    (r'^(emb_params|string_to_param|clip_[lg])$', f'is a textual inversion, a word for a model and '
     f'no model: {WANTED}'),
    (r'(^|\.)(double_blocks|single_transformer_blocks)\.', f'is a Flux, of another architecture: '
     f'{WANTED} {SERVED}'),
    (r'(^|\.)joint_blocks\.', f'is a Stable Diffusion 3, of another architecture: {WANTED} '
     f'{SERVED}'),
    (r'^edm_(mean|std|vpred)', 'is trained by EDM, on a forward process of sigmas that these '
     'priors lack: give another model'),
)
UNET = re.compile(
    r'(model\.diffusion_model\.|model\.|unet\.)?(input_blocks|output_blocks|time_embed'
    r'|down_blocks\.\d+\.attentions'
                  r'|time_embedding)\.')
VAE = re.compile(
    r'(first_stage_model\.|vae\.)?(encoder|decoder)\.(mid|mid_block|conv_in|conv_out|norm_out)\b')
TEXT = re.compile(
    r'(cond_stage_model|conditioner)\.'
    r'|(\w+\.)*(text_model|transformer\.resblocks|embeddings\.token_embedding)\b')
LACKS = f'alone and lacks the rest of a model: {WANTED}'


def keys(names: Iterable[str], metadata: dict[str, str]) -> str:
  """What a safetensors file of these tensors is."""
  names = list(names)
  if any(key.startswith('ss_network_') for key in metadata) or 'lora' in metadata.get(
      'modelspec.architecture', '').lower():
    return LORA
  for pattern, said in KEYS:
    if any(re.search(pattern, name) for name in names):
      return said
  held = {part: any(pattern.match(name) for name in names)
          for part, pattern in (('UNet', UNET), ('autoencoder', VAE), ('text encoder', TEXT))}
  found = [part for part, there in held.items() if there]
  if found == ['UNet']:
    return f'is a bare UNet, {LACKS}'
  return f'is the {" and the ".join(found)} of a model {LACKS}' if 0 < len(found) < len(
      held) else ''


def folder(path: pathlib.Path) -> str:
  """What a folder without model_index.json is."""
  names = sorted(p.name for p in path.iterdir())
  files = [name for name in names if name.endswith('.safetensors')]
  if {'snapshots', 'blobs'} <= set(names):
    return "is a repository of the hub's cache: give the folder within snapshots/"
  if any('lora' in name for name in files) or 'adapter_config.json' in names:
    return f'is the folder of a LoRA: {LORA.partition(": ")[2]}'
  if 'config.json' in names:
    config = safe_files.read_json(path / 'config.json')
    kind = config.get('_class_name') or config.get('architectures') or config.get('model_type')
    if kind:
      kind = kind[0] if isinstance(kind, list) else kind
      return f'is of {str(kind)[:60]} {LACKS}' + (
        f'; {path.parent} is one' if (path.parent / 'model_index.json').is_file() else '')
  if files and not any((path / name).is_dir() for name in names):
    return (f'holds no model_index.json, but {safe_files.listed(files)}: give such a file as '
            'the path')
  return ''


def index(table: dict) -> str:
  """What the model of a model_index.json is."""
  kind = str(table.get('_class_name'))[:60]
  if table.get('requires_aesthetics_score') is True:
    return REFINER
  if kind.startswith(('StableDiffusionPipeline', 'StableDiffusionXLPipeline', 'None')):
    return ''
  return f'is a {kind}: {WANTED} {SERVED}'
