"""View-dependent prompts: "{prompt}, front view" and so on (DreamFusion section 3.2; threestudio's template); files of prompts,
and the order in which a run takes them; and a store of what text encoders made of a prompt."""
import functools
import json
import os
import pathlib
from typing import Callable

import jax
import numpy as np
from jaxtyping import Array

from jaxdreamer import seeds

VIEWS = ('front view', 'side view', 'back view', 'overhead view')      # the order of cameras.view_bin


def view_prompts(prompt: str) -> list[str]:
  """The four prompts of one object, in the order of cameras.view_bin."""
  return [f'{prompt}, {view}' for view in VIEWS]


def read_file(path: str | os.PathLike, *, option: str) -> tuple[str, ...]:
  """The prompts of a text file, one a line, or of a JSON list. ValueError or FileNotFoundError, one line, names file and line of
  what is empty, repeated, no text or no UTF-8: nothing is dropped in silence."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'{option}={os.fspath(path)!r}: no such file; give a text file with a prompt a line, or a JSON list')
  try:
    text = path.read_bytes().decode()
  except UnicodeDecodeError as error:
    line = error.object[:error.start].count(b'\n') + 1
    raise ValueError(f'{option}: {path} line {line} is no UTF-8 (byte {error.start}): save the file as UTF-8') from None
  lines, unit = text.splitlines(), 'line'
  if path.suffix == '.json':
    try:
      lines, unit = json.loads(text), 'entry'
    except (json.JSONDecodeError, RecursionError) as error:
      raise ValueError(f'{option}: {path} is no JSON ({error})') from None
    if not isinstance(lines, list):
      raise ValueError(f'{option}: {path} holds a JSON {type(lines).__name__}; it takes a list of prompts')
  first = {}
  for number, line in enumerate(lines, 1):
    if not isinstance(line, str) or not line.strip():
      raise ValueError(f'{option}: {path} {unit} {number} is {"empty" if isinstance(line, str) else "no text"}: remove it')
    if (before := first.setdefault(line.strip(), number)) != number:
      raise ValueError(f'{option}: {path} {unit} {number} repeats {unit} {before}, {line.strip()!r}: remove one')
  if not first:
    raise ValueError(f'{option}: {path} holds no prompt')
  return tuple(first)


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
  """A permutation of `count` prompts, another in each epoch."""
  return np.asarray(jax.random.permutation(jax.random.fold_in(seeds.key(seed), epoch), count))


def chosen(seed: int, step: int, *, count: int, each: int) -> np.ndarray:
  """Which `each` of `count` prompts step number `step` takes: every prompt once in an epoch, a function of its arguments alone,
  so that a resumed run sees what an unbroken one sees."""
  places = step * each + np.arange(each)
  return np.array([epoch_order(seed, int(place) // count, count)[place % count] for place in places])


def cache() -> pathlib.Path:
  """Where embeddings are kept: XDG_CACHE_HOME/jaxdreamer/text."""
  return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'jaxdreamer' / 'text'


def stored(name: str, make: Callable[[], Array]) -> np.ndarray:
  """The array of this name in the cache, made and kept there where it is new or cannot be read."""
  path = cache() / f'{name}.npy'
  try:
    return np.load(path, allow_pickle=False)
  except (OSError, ValueError, EOFError):
    rows = np.asarray(make())
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(part := path.with_suffix(f'.{os.getpid()}.part'), 'wb') as file:
      np.save(file, rows, allow_pickle=False)
    os.replace(part, path)
  except OSError:
    pass                                         # a cache that cannot be written only costs the time it would have saved
  return rows
