"""Whatever a Stable Diffusion was published as, to a folder in diffusers' layout of safetensors:

    with files.whole_folder(to) as draft:
      written(source, draft, lora='style.safetensors', dtype='float16', tokenizers={}, say=print)

A pickle only becomes a safetensors file of the same keys (pickles.py); names, shapes and configs
are then found by the readers that training has, so that what is written is what training would
have read. diffusers' own converter, which takes its configs from the hub, is not wanted.
Weights are read as a network's parameters, which refuses what is missing, too much, mis-shaped or
not finite, and are written as they were, to the bit, where no LoRA and no other dtype is asked for.
Host memory holds the largest part twice.

Errors are open_model's: FileNotFoundError or ValueError, one line.
"""
import contextlib
import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
from types import MappingProxyType
from typing import Any, Callable, Iterator, Mapping

import jax.numpy as jnp

from jaxdreamer import files
from jaxdreamer.weights import (
  clip_tokens,
  hub,
  loras,
  networks,
  safe_files,
  safetensors_io,
  sources,
  tensor_files,
)
from jaxdreamer.weights.diffusers_folder import INDEX, SETTINGS, Part, load_part, open_model

DTYPES = ('float16', 'bfloat16', 'float32')
RECORD = 'converted.json'                # beside the model: where it came from, hashes, license
SCRATCH = 'unpickled'                    # within the draft, and gone from the model
WORDS = ('vocab.json', 'merges.txt', 'tokenizer.json', 'tokenizer_config.json',
         'special_tokens_map.json', 'added_tokens.json')
# of model_index.json
ENTRIES = {'unet': ['diffusers', 'UNet2DConditionModel'], 'vae': ['diffusers', 'AutoencoderKL'],
           'text_encoder': ['transformers', 'CLIPTextModel'],
           'text_encoder_2': ['transformers', 'CLIPTextModelWithProjection'],
           'tokenizer': ['transformers', 'CLIPTokenizer'],
           'tokenizer_2': ['transformers', 'CLIPTokenizer']}
PIPELINES = ({'_class_name': 'StableDiffusionPipeline', 'safety_checker': [None, None],
              'feature_extractor': [None, None], 'requires_safety_checker': False},
             {'_class_name': 'StableDiffusionXLPipeline'})
PACKAGES = ('jaxdreamer', 'torch', 'safetensors')


@contextlib.contextmanager
def in_terms_of(source: pathlib.Path, scratch: pathlib.Path) -> Iterator[None]:
  """Errors that name a file of `scratch` name what it was made of, of the source."""
  home = source if source.is_dir() else source.parent
  try:
    yield
  except (ValueError, FileNotFoundError) as error:
    made = re.escape(os.fspath(scratch)) + r'/(.+?)\.safetensors'
    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
    raise kind(re.sub(made, lambda name: os.fspath(home / name[1]), str(error))) from None


def kept_dtype(part: Part) -> Any:
  """The one of DTYPES that all floats of a part have, else float32; what its rows leave out of the
  file does not count."""
  with tensor_files.opened_all(part.file) as shards:
    kinds = {entry.dtype.name for shard in shards for key, entry in shard.entries.items()
             if safetensors_io.kind(entry.dtype) == 'floating'
             and safetensors_io.renamed(key, part.rename)}
  return kinds.pop() if len(kinds) == 1 and kinds <= {*DTYPES} else 'float32'


def written(source: pathlib.Path, draft: pathlib.Path, *, name: str = '', variant: str = '',
            dtype: str = '', lora: str = '', lora_scale: float = 1., prediction: str = '',
            tokenizers: Mapping[str, str] = MappingProxyType({}),
            accept: Callable[[dict], Any] = lambda parts: None,
            say: sources.Say = print) -> dict[str, Any]:
  """Writes the model at `source` into the folder `draft`, and returns its record. `name` is what
  the source is called if not by its path, `dtype` one of DTYPES, else each part's own; `accept`
  raises for parts that nobody has a use for, before anything large is read; the others are
  sources.opened's and loras.added's."""
  scratch = draft / SCRATCH
  scratch.mkdir()
  with in_terms_of(source, scratch):
    parts = sources.opened(source, scratch, variant=variant, prediction=prediction,
                           tokenizers=tokenizers, say=say)
    accept(parts)
    for value in parts.values():
      if isinstance(value, pathlib.Path):
        clip_tokens.load(value)
    if lora:
      parts = loras.added(parts, lora, scale=lora_scale, option='--lora')
    stored = [write_part(draft, part, value, dtype, say)
              for part, value in parts.items() if isinstance(value, Part)]
  write_rest(draft, parts)
  shutil.rmtree(scratch)
  hashes = {file.relative_to(draft).as_posix(): safe_files.sha256_of(file) for file in stored}
  fused = {'file': lora, 'scale': lora_scale, 'sha256': safe_files.sha256_of(lora)} if lora else {}
  record = {'source': name or os.fspath(source), 'license': sources.license_of(source),
            'sha256': hashes, 'versions': versions(), 'lora': fused}
  files.write_json(draft / RECORD, record)
  open_model(draft, sha256=hashes)       # as training will
  return record


def write_part(draft: pathlib.Path, name: str, part: Part, dtype: str,
               say: sources.Say) -> pathlib.Path:
  """A network's config.json and weights; returns the file of these."""
  say(f'reading {name}')
  kind = jnp.dtype(dtype or kept_dtype(part))
  try:
    like = networks.network(name, part.config).like()
  except Exception as error:                             # of every kind, from within the network
    raise ValueError(f'{part.file}: the config of {name} describes no network of it: '
                     f'{safe_files.one_line(error)}') from None
  params = load_part(part, like, dtype=kind)
  file = draft / name / f'{hub.NETWORKS[name]}.safetensors'
  files.write_json(file.with_name('config.json'), part.config)
  # transformers' class of the bare tower has all its names under this one
  safetensors_io.save(file, {'text_model': params} if name == 'text_encoder' else params,
                      dtype=kind)
  say(f'wrote {name}/{file.name}  {sources.size_of([file])}, {kind.name}')
  return file


def write_rest(draft: pathlib.Path, parts: dict[str, Any]) -> None:
  """Tokenizers, the scheduler and model_index.json."""
  index = (PIPELINES[1] if 'text_encoder_2' in parts else PIPELINES[0]) | {
    name: parts[name] for name in SETTINGS if name in parts}
  for name, value in parts.items():
    if isinstance(value, pathlib.Path):
      (draft / name).mkdir()
      for file in WORDS:
        if (value / file).is_file():
          shutil.copyfile(value / file, draft / name / file)
    if name == 'scheduler':
      files.write_json(draft / name / 'scheduler_config.json', value)
      index[name] = ['diffusers', value.get('_class_name', 'DDIMScheduler')]
    elif name in ENTRIES:
      index[name] = ENTRIES[name]
  files.write_json(draft / INDEX, index)


def versions() -> dict[str, str]:
  """Of what had a hand in it; torch only where it is here."""
  there = {}
  for package in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      there[package] = importlib.metadata.version(package)
  return {'python': platform.python_version(), **there}
