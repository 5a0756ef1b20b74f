"""What a text encoder made of many prompts, in a folder that need not fit in memory.

    store = open_store(folder, prompts, embed)    # embeds what the folder lacks
    text = store.read([3, 14, 15])                # Text [3, ...] in NumPy; reads these rows alone

An array a field of Text, [N, ...] in bfloat16 (tensorstore's zarr3): a file for each block of
prompts, of which one prompt can be read alone. Processes share out the blocks and mark what is
done: a pass that was cut short goes on where it stopped. The embeddings of '' and of the negative
prompt are everyone's and kept once. The folder names its prompts, and its first row tells whose
weights made it.
"""
import functools
import hashlib
import json
import os
import pathlib
from typing import Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore
from jax.experimental import multihost_utils
from jaxtyping import Int

from jaxdreamer import files, prompts
from jaxdreamer.types import Text

BLOCK = 64                             # prompts that are done at a time
OWN = ('views', 'plain', 'pooled')     # fields that differ from prompt to prompt
ALIKE = .05                            # of the largest value: what devices and bfloat16 may change


class Store(NamedTuple):
  """`rows` are open arrays [N, ...] by field; `shared` the Text of prompt 0, for the fields that
  are everyone's."""
  prompts: tuple[str, ...]
  rows: dict[str, tensorstore.TensorStore]
  shared: Text

  def read(self, indices: Sequence[int] | Int[np.ndarray, 'P']) -> Text:
    """Text [P, ...] of these prompts."""
    indices = np.asarray(indices)
    pending = {name: rows[indices].read() for name, rows in self.rows.items()}
    own = {name: np.asarray(rows.result(), np.float32) for name, rows in pending.items()}
    repeat = lambda a: np.broadcast_to(a, (len(indices), *a.shape))
    return self.shared._replace(null=repeat(self.shared.null),
                                negative=repeat(self.shared.negative), **own)


def rows_at(folder: pathlib.Path, name: str, shape: tuple[int, ...]) -> tensorstore.TensorStore:
  """The array of one field, made if it is not there."""
  plain = [{'name': 'bytes', 'configuration': {'endian': 'little'}}]
  shards = {'name': 'sharding_indexed', 'configuration': {'chunk_shape': [1, *shape[1:]],
                                                          'codecs': plain}}
  grid = {'name': 'regular', 'configuration': {'chunk_shape': [BLOCK, *shape[1:]]}}
  return tensorstore.open({'driver': 'zarr3', 'kvstore': {'driver': 'file',
                                                          'path': os.fspath(folder / name)},
                           'metadata': {'chunk_grid': grid, 'codecs': [shards]}},
                          dtype=tensorstore.bfloat16, shape=shape, open=True, create=True).result()


def open_store(folder: pathlib.Path, prompts: tuple[str, ...], embed: Callable[[str], Text], *,
               say: Callable = print) -> Store:
  """The store of `prompts` in `folder`; `embed` is asked for what it lacks, and once to see that
  the rows are of its weights.

  ValueError, one line, where the folder holds other prompts or was made by other weights, or where
  `embed` refuses a prompt.
  """
  def embedded(index):
    try:
      return jax.device_get(embed(prompts[index]))
    except ValueError as error:
      raise ValueError(f'prompt {index + 1} of {len(prompts)}, {prompts[index]!r}: '
                       f'{error}') from None
  shared = embedded(0)
  own = {name: value for name in OWN if (value := getattr(shared, name)) is not None}
  note, named, mark = folder / 'prompts.json', json.dumps(
      prompts), lambda block: folder / f'done_{block:06}'
  folder.mkdir(parents=True, exist_ok=True)
  if not note.exists():
    with files.whole(note) as draft:
      draft.write_text(named)
  if note.read_text() != named:
    raise ValueError(f'{folder} holds the embeddings of other prompts: give another folder, or '
                     'remove it')
  rows = {name: rows_at(folder, name, (len(prompts), *value.shape)) for name, value in own.items()}
  for name, value in own.items() if mark(0).exists() else ():
    kept = np.asarray(rows[name][0].read().result(), np.float32)
    if np.abs(kept - value).max() > ALIKE * np.abs(value).max():
      raise ValueError(f'{folder} was made by other weights (its {name!r} of {prompts[0]!r} '
                       'differ): give another folder, or '
                       'remove it')
  blocks = range(-(-len(prompts) // BLOCK))
  for block in blocks[jax.process_index()::jax.process_count()]:
    if not mark(block).exists():
      begin, end = block * BLOCK, min((block + 1) * BLOCK, len(prompts))
      texts = [embedded(i) for i in range(begin, end)]
      for name in rows:
        rows[name][begin:end].write(np.stack([np.asarray(getattr(t, name), jnp.bfloat16)
                                              for t in texts])).result()
      mark(block).touch()
      if end < len(prompts):
        say(f'embedded {end} of {len(prompts)} prompts')
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('embedded')
  return Store(prompts, rows, shared)


def name_of(prompts: tuple[str, ...], negative: str, first: Text) -> str:
  """Of the folder, where nobody gave one: another for other prompts or other weights, by the Text
  of the first prompt."""
  return hashlib.sha256(json.dumps([prompts, negative]).encode()
                        + np.asarray(first.plain).tobytes()).hexdigest()[:16]


def texts(phrases: tuple[str, ...], embed: Callable[[str], Text], *, folder: str, each: int,
          seed: int, negative: str, sharding: jax.sharding.Sharding) -> Callable:
  """step -> the Text of the `each` phrases that it takes, of the store in `folder`; in one of the
  user's caches if that is ''. `negative` is what `embed` adds to every phrase."""
  @functools.cache
  def store():
    name = folder or prompts.cache() / name_of(phrases, negative, embed(phrases[0]))
    return open_store(pathlib.Path(name), phrases, embed)
  which = functools.partial(prompts.chosen, seed, count=len(phrases), each=each)
  return batches(store, which, sharding)


def batches(store: Callable[[], Store], which: Callable[[int], np.ndarray],
            sharding: jax.sharding.Sharding) -> Callable:
  """step -> the Text [P, ...] of its prompts, laid out by `sharding`; a process reads the rows of
  its own devices alone.

  `store` is opened at the first step: whoever takes none need not have one. `which` (step=) -> the
  indices [P] of a step.
  """
  @functools.lru_cache(maxsize=1)                # the first is taken to compile, then to run
  def text(step: int) -> Text:
    chosen = which(step=step)
    rows = functools.cache(lambda begin, end: store().read(chosen[begin:end]))
    one = rows(0, 1)

    def laid_out(name):
      shape = (len(chosen), *getattr(one, name).shape[1:])
      return jax.make_array_from_callback(shape, sharding, lambda at: getattr(
          rows(*at[0].indices(len(chosen))[:2]), name))
    with jax.transfer_guard_host_to_device('allow'):    # what a step is to be sent
      return Text(**{name: None if value is None else laid_out(name)
                     for name, value in one._asdict().items()})
  return text
