"""Published text-to-image models: a folder in diffusers' layout, or Stable Diffusion in one
safetensors file.

    parts = open_model('stable-diffusion-2-1-base')    # reads indices and configs, no tensors
    network = unet.UNet2DCondition(unet_config.from_diffusers(parts['unet'].config))
    like = jax.eval_shape(network.init, ...)['params']
    params = load_part(parts['unet'], like, dtype=jnp.bfloat16)

A folder holds model_index.json, {name: [library, class]}, and a subfolder of every name. Its files
and subfolders may be links, as those of the Hugging Face cache; what a file names stays in the
file's own folder. Of several weights files the plain one is read, else the half precision one, else
the shards of an index, else the one variant there is. A safety checker and its feature extractor
are left alone. FileNotFoundError or ValueError, in one line, names the file and the remedy.
"""
import os
import pathlib
import re
from typing import Any, Callable, Mapping, NamedTuple

import jax
from jaxtyping import PyTree

from jaxdreamer.nn.clip import CLIP_RENAME, TEXT_PROJECTION_RENAME
from jaxdreamer.nn.vae import VAE_RENAME
from jaxdreamer.weights import (
  foreign,
  multiview,
  safe_files,
  safetensors_io,
  single_file,
  tensor_files,
)

# Classes by part's name, with the rows for safetensors_io.load that read their files; multiview.py
# finds those of its class.
CLASSES = {
    'unet': {'UNet2DConditionModel': (), multiview.CLASS: ()},
    'vae': {'AutoencoderKL': VAE_RENAME},
    'text_encoder': {'CLIPTextModel': CLIP_RENAME,
                     'CLIPTextModelWithProjection': TEXT_PROJECTION_RENAME},
    'text_encoder_2': {'CLIPTextModel': CLIP_RENAME,
                       'CLIPTextModelWithProjection': TEXT_PROJECTION_RENAME}}
TOKENIZERS = ('CLIPTokenizer', 'CLIPTokenizerFast')
REQUIRED = ('unet', 'vae', 'text_encoder', 'scheduler', 'tokenizer')
LEFT_ALONE = ('safety_checker', 'feature_extractor', 'image_encoder')
NAMES = ('{}.safetensors', '{}.fp16.safetensors', '{}.safetensors.index.json',
         '{}.safetensors.index.fp16.json')
VARIANT = (
    r'{0}\.[\w-]+\.safetensors|{0}\.safetensors\.index\.[\w-]+\.json'
    r'|{0}\.[\w-]+\.safetensors\.index\.json')
SHARDED = r'-\d+-of-\d+(\.|$)'
INDEX = 'model_index.json'
# of model_index.json itself, that decide what a prior does
SETTINGS = ('force_zeros_for_empty_prompt',)


class Part(NamedTuple):
  """A network of the model: its config.json, the file or index for safetensors_io.load (None:
  shapes alone, of model_shapes.py), the rows that read it, and what loras.py adds to its weights,
  {published key: LowRank}."""
  config: dict
  file: pathlib.Path | None
  rename: tuple
  changes: Mapping[str, Any] = {}


Find = Callable[[pathlib.Path, str], pathlib.Path]       # as weights_in


def open_model(path: str | os.PathLike, *, sha256: str | Mapping[str, str] | None = None,
               find: Find | None = None) -> dict[str, Any]:
  """{name as in model_index.json: Part}, but under 'scheduler' its config, a dict, under
  'tokenizer' or 'tokenizer_2' its folder, a path, and those of SETTINGS that are told. One file
  holds no tokenizer, and its scheduler is inferred:
  single_file.py says how.

  `sha256` is the hash of the one file, or {path below the folder, with /: hash} of every weights
  file that is read. `find` stands in for `weights_in`.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    return from_folder(path, sha256, find or weights_in)
  if path.suffix == tensor_files.INDEX:
    raise ValueError(f'{path} is an index: give the folder that holds {INDEX}, or one '
                     '.safetensors file')
  with tensor_files.opened_all(path, sha256=sha256) as files:
    found = single_file.parts(files[0])
  return {name: Part(config, path, rows) if rows else config
          for name, (config, rows) in found.items()}


def load_part(part: Part, like: PyTree, *, dtype: Any, sharding: PyTree = None) -> PyTree:
  """The parameters of a part, shaped as `like`; dtype, sharding and errors as
  safetensors_io.load's. Without a file, their shapes."""
  if part.file is None:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), like)
  return safetensors_io.load(part.file, like, rename=part.rename, dtype=dtype, sharding=sharding,
                             changes={key: change.tensor for key, change in part.changes.items()})


def from_folder(folder: pathlib.Path, sha256: str | Mapping[str, str] | None,
                find: Find) -> dict[str, Any]:
  """The parts of a folder; see `open_model`."""
  if isinstance(sha256, str):
    raise ValueError(f'{folder}: one sha256 cannot vouch for a folder, give '
                     '{path below it: sha256} of every weights file')
  if not os.path.lexists(folder / INDEX) and (found := foreign.folder(folder)):
    raise ValueError(f'{folder} {found}')
  index = safe_files.read_json(folder / INDEX)
  entries = {name: entry for name, entry in index.items()
             if not name.startswith('_') and isinstance(entry, list) and any(entry)
             and name not in LEFT_ALONE}
  if absent := [name for name in REQUIRED if name not in entries]:
    raise ValueError(f'{folder / INDEX} lists no {safe_files.listed(absent)}: it '
                     + (foreign.index(index) or 'is no Stable Diffusion, or is incomplete'))
  parts = {name: part_of(folder, name, entry, find) for name, entry in entries.items()}
  if sha256 is not None:
    files = [file for part in parts.values() if isinstance(part, Part)
             for file in tensor_files.files_of(part.file)]
    safe_files.check_hashes(folder, {file.relative_to(folder).as_posix(): file for file in files},
                            sha256)
  return parts | {name: bool(index[name]) for name in SETTINGS if name in index}


def part_of(folder: pathlib.Path, name: str, entry: list, find: Find) -> Part | dict | pathlib.Path:
  """One entry of model_index.json, resolved."""
  library, cls = entry if len(entry) == 2 else (None, None)
  home = folder / name
  known = (*CLASSES.get(name, ()), *(TOKENIZERS if name in ('tokenizer', 'tokenizer_2') else ()))
  if name == 'scheduler' and library == 'diffusers' and isinstance(cls, str):
    return safe_files.read_json(home / 'scheduler_config.json')
  if cls not in known:
    raise ValueError(f'{folder / INDEX}: the part {name!r} is {str(entry)[:200]}; known are '
                     f'{[*known] or "no classes of that name"}')
  if not home.is_dir():
    raise FileNotFoundError(f'no folder {home}, though {INDEX} lists it: download that part of the '
                            'model too')
  if cls in TOKENIZERS:
    return home
  config = safe_files.read_json(home / 'config.json')
  says = config.get('_class_name') or config.get('architectures') or cls
  if says not in (cls, [cls]):
    raise ValueError(f'{home / "config.json"} is of {str(says)[:200]}, {INDEX} says {cls}: the two '
                     'are of different models')
  file = find(home, 'model' if 'text' in name else 'diffusion_pytorch_model')
  if cls == multiview.CLASS:
    config, rows = multiview.described(home / 'config.json', config, file)
    return Part(config, file, rows)
  return Part(config, file, CLASSES[name][cls])


def weights_in(home: pathlib.Path, stem: str) -> pathlib.Path:
  """The weights file of a part, in the order of NAMES, else the one variant that lies there; its
  shards are all there."""
  names = [name.format(stem) for name in NAMES]
  found = [home / name for name in names if os.path.lexists(home / name)]
  there = sorted(p.name for p in home.iterdir())
  variants = [name for name in there if re.fullmatch(VARIANT.format(re.escape(stem)), name)
              and not re.search(SHARDED, name)]
  if not found and len(variants) > 1:
    raise ValueError(f'{home} holds several variants of its weights, {variants}: keep one there, '
                     f'or name it {names[0]}')
  if found or variants:
    file = (found or [home / name for name in variants])[0]
    for shard in tensor_files.files_of(file):
      tensor_files.check_kind(shard)
    return file
  pickles = [name for name in there if pathlib.Path(name).suffix.lower() in safe_files.PICKLES]
  if pickles:
    raise ValueError(safe_files.pickle_refusal(home / pickles[0]))
  raise FileNotFoundError(f'no weights in {home}: download one of {names} there; it holds '
                          f'{safe_files.listed(there)}')
