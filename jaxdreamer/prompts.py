"""View-dependent prompts: "{prompt}, front view" and so on (DreamFusion section 3.2; threestudio's
template); files of prompts, and the order in which a run takes them; and a store of what text
encoders made of a prompt."""
import functools
import json
import os
import pathlib
from typing import Callable

import jax
import numpy as np
from jaxtyping import Array

from jaxdreamer import files, seeds

VIEWS = ('front view', 'side view', 'back view', 'overhead view')  # the order of cameras.view_bin
# of the prompts of views, which no text encoder may cut off
ENDS = tuple(f', {view}' for view in VIEWS)


def view_prompts(prompt: str) -> list[str]:
  """The four prompts of one object, in the order of cameras.view_bin."""
  return [f'{prompt}{end}' for end in ENDS]


MARK = '\ufeff'  # the byte-order mark, which some editors write before a text
ENCODINGS = ((b'\xff\xfe\0\0', 'UTF-32'), (b'\0\0\xfe\xff', 'UTF-32'), (b'\xff\xfe', 'UTF-16'),
             (b'\xfe\xff', 'UTF-16'))


def read_file(path: str | os.PathLike, *, option: str, blank: bool = False) -> tuple[str, ...]:
  """The prompts of a text file, one a line, or of a JSON list, in UTF-8 with or without a
  byte-order mark. ValueError or FileNotFoundError, one line, names file and line of what is empty,
  repeated, no text or in another encoding: nothing is dropped in silence, but empty lines where
  `blank` allows them."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'{option}={os.fspath(path)!r}: no such file; give a text file with a '
                            'prompt a line, or a JSON list')
  text = decoded(path, option)
  lines, unit = text.splitlines(), 'line'
  if path.suffix == '.json':
    try:
      lines, unit = json.loads(text), 'entry'
    except (json.JSONDecodeError, RecursionError) as error:
      raise ValueError(f'{option}: {path} is no JSON ({error})') from None
    if not isinstance(lines, list):
      raise ValueError(f'{option}: {path} holds a JSON {type(lines).__name__}; it takes a list '
                       'of prompts')
  first = {}
  for number, line in enumerate(lines, 1):
    # files that were joined hold marks within
    line = line.strip().strip(MARK) if isinstance(line, str) else line
    if blank and line == '':
      continue
    if not isinstance(line, str) or not line.strip():
      raise ValueError(f'{option}: {path} {unit} {number} is '
                       f'{"empty" if isinstance(line, str) else "no text"}: remove it')
    if (before := first.setdefault(line.strip(), number)) != number:
      raise ValueError(f'{option}: {path} {unit} {number} repeats {unit} {before}, '
                       f'{line.strip()!r}: remove one')
  if not first:
    raise ValueError(f'{option}: {path} holds no prompt')
  return tuple(first)


def decoded(path: pathlib.Path, option: str) -> str:
  """The text of a file. ValueError names the line, and the encoding that it seems to be in, where
  that is not UTF-8."""
  raw = path.read_bytes()
  found = next((name for mark, name in ENCODINGS if raw.startswith(mark)), '')
  if not found and b'\0' in raw:  # of which a text has none: every letter of UTF-16 or UTF-32 has
    found = 'UTF-32' if b'\0\0' in raw else 'UTF-16'
  line = 1
  try:
    if not found:
      return raw.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = error.object[:error.start].count(b'\n') + 1
    byte = error.object[error.start]
    found = 'Windows-1252' if any(0x80 <= b < 0xa0 for b in raw) else 'latin-1 or Windows-1252'
    found += f', byte {byte:#x} at {error.start}'
  raise ValueError(f'{option}: {path} line {line} is no UTF-8 (it seems to be {found}): save the '
                   'file as UTF-8') from None


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
  """A permutation of `count` prompts, another in each epoch."""
  with jax.transfer_guard('allow'):      # once an epoch; no other step asks the host for numbers
    return np.asarray(jax.random.permutation(jax.random.fold_in(seeds.key(seed), epoch), count))


def chosen(seed: int, step: int, *, count: int, each: int) -> np.ndarray:
  """Which `each` of `count` prompts step number `step` takes: every prompt once in an epoch, a
  function of its arguments alone, so that a resumed run sees what an unbroken one sees."""
  places = step * each + np.arange(each)
  return np.array([epoch_order(seed, int(place) // count, count)[place % count]
                   for place in places])


def cache() -> pathlib.Path:
  """Where embeddings are kept: jaxdreamer/text in XDG_CACHE_HOME, or where this system's caches
  are."""
  import platformdirs
  return platformdirs.user_cache_path('jaxdreamer') / 'text'


def stored(name: str, make: Callable[[], Array]) -> np.ndarray:
  """The array of this name in the cache, made and kept there where it is new or cannot be read."""
  path = cache() / f'{name}.npy'
  try:
    return np.load(path, allow_pickle=False)
  except (OSError, ValueError, EOFError):
    rows = np.asarray(make())
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as draft, draft.open('wb') as file:
      np.save(file, rows, allow_pickle=False)
  except OSError:
    pass  # a cache that cannot be written only costs the time it would have saved
  return rows
