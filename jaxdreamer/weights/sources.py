"""A Stable Diffusion as it was published, opened to be converted: what diffusers_folder.open_model
reads, and pickles of both kinds, the .bin files of a folder and a single .ckpt, .pt or .bin.

    parts = opened(source, scratch, variant='fp16', prediction='', tokenizers={}, say=print)

Errors are open_model's: FileNotFoundError or ValueError, one line.
"""
import functools
import pathlib
import re
from typing import Any, Callable, Mapping

from jaxdreamer.weights import hub, pickles, safe_files, safetensors_io
from jaxdreamer.weights.diffusers_folder import INDEX, open_model, weights_in

# what diffusers' sampler wants to hear of a single file, none of which changes the forward process
SAMPLER = {'_class_name': 'DDIMScheduler', 'clip_sample': False, 'set_alpha_to_one': False,
           'steps_offset': 1}
LETTERS = 2 ** 16                        # of a model card that are read for its license
Say = Callable[[str], Any]


def patterns(variant: str) -> tuple[tuple[str, ...], ...]:
  """Rows for hub.fetch: safetensors before pickles, and of either the variant alone if asked."""
  torch = lambda mark: (f'{{0}}/*model{mark}.bin', f'{{0}}/*model{mark}-*-of-*.bin')
  if variant:
    mark = f'.{variant}'
    return ((f'{{0}}/{{1}}{mark}.safetensors', f'{{0}}/{{1}}{mark}-*-of-*.safetensors'),
            torch(mark))
  return (*hub.WEIGHTS, torch(''), torch('.fp16'))


def found(home: pathlib.Path, stem: str, *, variant: str,
          unpickle: Callable[[list[pathlib.Path]], pathlib.Path]) -> pathlib.Path:
  """The weights file of a part, as diffusers_folder.weights_in's but that `variant`, where given,
  is the one to take; where there are pickles alone, what `unpickle` makes of them."""
  there = sorted(path.name for path in home.iterdir())
  if variant:
    named = (f'{stem}.{variant}.safetensors', f'{stem}.safetensors.index.{variant}.json',
             f'{stem}.{variant}.safetensors.index.json')
    if chosen := [home / name for name in named if name in there]:
      return chosen[0]
  elif any('.safetensors' in name for name in there):
    return weights_in(home, stem)
  root = 'pytorch_model' if stem == 'model' else stem
  marks = [f'.{variant}'] if variant else ['', '.fp16']
  for mark in marks:
    shard = re.compile(re.escape(root + mark) + r'(-\d+-of-0*(\d+))?\.bin')
    paths = [home / name for name in there if shard.fullmatch(name)]
    if paths and len(paths) != (many := int(shard.fullmatch(paths[0].name)[2] or 1)):
      raise FileNotFoundError(f'{home} holds {len(paths)} of {many} shards like {paths[0].name}: '
                              'download the others too')
    if paths:
      return unpickle(paths)
  if variant or any(name.endswith('.bin') for name in there):
    raise FileNotFoundError(f'no weights of the variant {variant!r} in {home}: it holds '
                            f'{safe_files.listed(there)}, and --variant takes a mark in such names')
  return weights_in(home, stem)          # says what is there


def complete(folder: str, *, variant: str) -> None:
  """FileNotFoundError where a folder lacks the weights of a part that it lists."""
  folder = pathlib.Path(folder)
  index = safe_files.read_json(folder / INDEX)
  for name, stem in hub.NETWORKS.items():
    if index.get(name) and (folder / name).is_dir():
      found(folder / name, stem, variant=variant, unpickle=lambda paths: paths[0])


def opened(source: pathlib.Path, scratch: pathlib.Path, *, variant: str, prediction: str,
           tokenizers: Mapping[str, str], say: Say) -> dict[str, Any]:
  """The parts of a source, as open_model's. A single file is told its `tokenizers`, folders by
  'tokenizer' and 'tokenizer_2', and where it does not say it the `prediction` of its UNet.
  `scratch` takes what pickles become: a file's own path below its home, and .safetensors."""
  home = source if source.is_dir() else source.parent

  def unpickle(paths):
    out = scratch / f'{paths[0].relative_to(home)}.safetensors'
    out.parent.mkdir(parents=True, exist_ok=True)
    say(f'unpickling {", ".join(path.name for path in paths)}  {size_of(paths)}, by torch')
    return pickles.unpickled(paths, out)

  if source.is_dir():
    given = {'prediction': prediction, **tokenizers}
    if alien := [name for name, value in given.items() if value]:
      raise ValueError(f'--{alien[0]} is for single files: {source} is a folder, which says it')
    return open_model(source, find=functools.partial(found, variant=variant, unpickle=unpickle))
  if variant:
    raise ValueError(f'--variant={variant}: {source} is one file, and has no variants')
  pickled = source.suffix.lower() in safe_files.PICKLES
  parts = open_model(unpickle([source]) if pickled else source)
  told = {'prediction_type': prediction} if prediction else {}
  parts['scheduler'] = SAMPLER | parts['scheduler'] | told
  if parts['scheduler']['prediction_type'] is None:
    raise ValueError(f'{source} does not say what its UNet predicts: give --prediction=epsilon, or '
                     "v_prediction as Stable Diffusion 2.1's 768 px model does")
  for tower in [name for name in parts if name.startswith('text_encoder')]:
    name = tower.replace('text_encoder', 'tokenizer')
    if not tokenizers.get(name):
      raise ValueError(f'{source} is one file, which holds no tokenizer: give --{name}, a folder '
                       'of vocab.json and merges.txt, or tokenizer.json')
    parts[name] = pathlib.Path(tokenizers[name])
  return parts


def size_of(paths: list[pathlib.Path]) -> str:
  """'3.20 GiB' of files."""
  size = sum(path.stat().st_size for path in paths)
  return f'{size / 2 ** 30:.2f} GiB' if size > 2 ** 28 else f'{size / 2 ** 20:.1f} MiB'


def text_of(file: pathlib.Path) -> str:
  """The first LETTERS of a text."""
  with safe_files.regular(file) as opened:
    return opened.read(LETTERS).decode(errors='replace')


def license_of(source: pathlib.Path) -> str:
  """What the source says of its license: the head of a model card, a LICENSE file, the table of a
  single file. Nothing here judges it."""
  if source.is_dir():
    card = source / 'README.md'
    head = re.match(r'---\s*\n(.*?)\n---', text_of(card) if card.is_file() else '', re.DOTALL)
    named = re.findall(r'^(license\w*):\s*["\']?([^"\'\n]+)', head[1] if head else '', re.MULTILINE)
    if named:
      return ', '.join(f'{key}: {value.strip()}' for key, value in named)
    for file in sorted(file for file in source.glob('LICENSE*') if file.is_file()):
      return f'{file.name}: {" ".join(text_of(file).split())[:200]}'
  elif source.suffix.lower() not in safe_files.PICKLES:
    if told := safetensors_io.read_metadata(source).get('modelspec.license'):
      return told[:200]
  return 'unknown, look it up'
