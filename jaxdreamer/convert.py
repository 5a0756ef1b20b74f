"""python -m jaxdreamer.convert --from=SOURCE --to=FOLDER [--dtype=float16 --variant=fp16
                              --lora=FILE --lora_scale=.8]
python -m jaxdreamer.convert --from=MODEL.ckpt --to=FOLDER --tokenizer=FOLDER
                              [--prediction=v_prediction]

Any Stable Diffusion 1.x, 2.x or XL, or MVDream, to a folder in diffusers' layout of safetensors,
which training, `doctor` and diffusers read. SOURCE is a folder with weights in .safetensors or
.bin, a single .safetensors, .ckpt, .pt or .bin, or a model of the Hugging Face hub, by
OWNER/NAME[@REVISION] or by an alias of config.prior.hub. Pickles are read by torch, weights only,
in a process of their own; all else is done without it (pip install 'jaxdreamer[convert]', [hub]).

FOLDER appears whole or not at all. In it, converted.json tells the source, the hashes and what the
source says of its license.
"""
import json
import os
import pathlib
import re
import shlex
import signal

import jax
from absl import flags

from jaxdreamer import cli, files
from jaxdreamer.options import place
from jaxdreamer.priors import latent
from jaxdreamer.weights import conversion, hub, safe_files, sources

FILES = ('.safetensors', *safe_files.PICKLES)
REPOSITORY = r'[\w.-]+/[\w.-]+(@[\w./-]+)?'


def source_of(given: str, variant: str) -> tuple[pathlib.Path, str]:
  """(the folder or file, what it is called): of this disk, else of the hub."""
  path = place(given)
  asked = given in hub.ALIASES or re.fullmatch(REPOSITORY, given) and path.suffix not in FILES
  if os.path.lexists(path) or not asked:
    return path, given
  print(f'fetching {given}', flush=True)
  folder = hub.fetch(given, option='--from', instead='--from',
                     weights=sources.patterns(variant),
                     check=lambda folder: sources.complete(folder, variant=variant))
  return pathlib.Path(folder), f'{given}, from the hub, {pathlib.Path(folder).name}'


def command_for(folder: pathlib.Path) -> str:
  """The command that trains with the model in `folder`."""
  unet = json.loads((folder / 'unet' / 'config.json').read_text())
  config = 'scaledreamer_mvdream' if unet.get('class_embed_type') else 'dreamfusion_sd'
  name = ' --config.prior.name=sdxl' if unet.get('addition_embed_type') else ''
  return (f'python -m jaxdreamer.train --config=configs/{config}.py{name} '
          f"--config.prior.path={shlex.quote(os.fspath(folder))} --config.prompt='a lion fish'")


def convert(given: str, folder: pathlib.Path, *, variant: str = '', **options) -> dict:
  """Makes `folder` of what --from says, and returns its record; `options` are
  conversion.written's. ValueError or OSError, one line, and then there is no folder."""
  with files.whole_folder(folder) as draft:
    source, name = source_of(given, variant)
    return conversion.written(source, draft, name=name, variant=variant, accept=serves, **options)


def serves(parts: dict):
  """ValueError where no prior knows the forward process of a model."""
  latent.schedule_of(parts['scheduler'])


def main():
  """Converts --from to --to."""
  given = flags.FLAGS
  jax.config.update('jax_platforms', 'cpu')              # it computes nothing
  # SIGTERM ends it as Ctrl-C does, and no draft stays
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  if given.lora_scale != 1. and not given.lora:
    cli.die('--lora_scale needs --lora, the file that it scales', status=cli.MISUSED)
  at = lambda path: os.fspath(place(path)) if path else ''
  record = convert(given['from'].value, place(given.to), variant=given.variant,
                   dtype=given.dtype or '', lora=at(given.lora), lora_scale=given.lora_scale,
                   prediction=given.prediction or '',
                   tokenizers={'tokenizer': at(given.tokenizer),
                               'tokenizer_2': at(given.tokenizer_2)},
                   say=lambda line: print(line, flush=True))
  print(f'{place(given.to)}  license: {record["license"]}\nuse it by\n'
        f'    {command_for(place(given.to))}')


if __name__ == '__main__':
  flags.DEFINE_string('from', None, 'What to convert: a folder, a file, or a model of the hub.',
                      required=True)
  flags.DEFINE_string('to', None, 'A folder that is new, or empty.', required=True)
  flags.DEFINE_enum('dtype', None, conversion.DTYPES, 'Of the weights; if not given, as they are.')
  flags.DEFINE_string('variant', '', 'Of the weights in a folder or on the hub: fp16, non_ema.')
  flags.DEFINE_string('lora', '', 'A LoRA file, whose change is added to the weights.')
  flags.DEFINE_float('lora_scale', 1., 'How many times.')
  flags.DEFINE_string('tokenizer', '', 'Folder of the tokenizer, for single files.')
  flags.DEFINE_string('tokenizer_2', '', 'And of the second one, of XL.')
  flags.DEFINE_enum('prediction', None, ('epsilon', 'v_prediction', 'sample'),
                    'What the UNet predicts, for a single file that does not say it.')
  cli.run(main)
