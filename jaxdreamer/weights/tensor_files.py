"""safetensors files, one or the shards of an index, opened and checked: what they hold is known
before a tensor is read.

The files themselves are read and checked by safetensors; nothing is mapped or unpickled. Links are
followed; a name within an index of shards stays in the index's folder. FileNotFoundError where
nothing is, ValueError for all else, in one line that names the file and the cause.
"""
import contextlib
import math
import os
import pathlib
import re
from typing import Any, Callable, Iterator, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdreamer.weights import safe_files

INDEX = '.json'                          # how the name of an index of shards ends
SHARD = r'[\w][\w.\-]*\.safetensors'     # a plain name, in the index's own folder
DTYPES = {'BOOL': jnp.bool_, 'F64': jnp.float64, 'F32': jnp.float32, 'F16': jnp.float16,
          'BF16': jnp.bfloat16, 'I64': jnp.int64, 'I32': jnp.int32, 'I16': jnp.int16,
          'I8': jnp.int8, 'U64': jnp.uint64, 'U32': jnp.uint32, 'U16': jnp.uint16, 'U8': jnp.uint8}
MAX_RANK, MAX_ELEMENTS = 8, 2 ** 40      # of a tensor; zeros of its shape count as ones
# What safetensors' reasons mean to who downloaded the file.
PLAIN = {'not fully covered': 'cut short or has bytes no tensor owns',
         'header too small': 'cut short', 'header too large': 'of another kind',
         'invalid header length': 'cut short or of another kind'}


class Tensors(NamedTuple):
  """An open safetensors file: shapes and dtypes by key, its table of strings, and the reader of a
  tensor."""
  path: pathlib.Path
  entries: dict[str, jax.ShapeDtypeStruct]
  metadata: dict[str, str]
  read: Callable[[str], np.ndarray]


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
  """Errors of safetensors as one line that names the file."""
  try:
    yield
  except (SafetensorError, OSError) as error:
    cause = safe_files.one_line(error)
    cause += ''.join(f': it is {plain}' for words, plain in PLAIN.items() if words in cause)
    raise invalid(path, cause) from None


def invalid(path: pathlib.Path, cause: str) -> ValueError:
  """The error of a broken safetensors file."""
  return ValueError(f'{path} is no valid safetensors file ({cause}): download or convert it again')


def check_kind(path: pathlib.Path) -> None:
  """ValueError for a file that begins as another kind than safetensors, or is named as a pickle."""
  with safe_files.regular(path) as file:
    head = file.read(safe_files.HEAD)
  if head[8:9] != b'{':                  # else the length before it may look like any mark
    if found := safe_files.what_is(head):
      raise ValueError(f'{path} is no valid safetensors file: it {found}')
    if re.match(rb'PK|\x80[\x02-\x05]', head):
      raise ValueError(safe_files.pickle_refusal(path))
    if text := safe_files.words_of(head):
      raise invalid(path, f'it begins with the text {text!r}')
  if path.suffix.lower() in safe_files.PICKLES:
    raise ValueError(safe_files.pickle_refusal(path))


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[Tensors]:
  """A safetensors file whose header is sound, as Tensors."""
  path = pathlib.Path(path)
  check_kind(path)
  with named(path):
    file = safe_open(path, 'numpy', backend='pread')

  def read(key):
    with named(path):
      return file.get_tensor(key)

  with file:
    slices = {key: file.get_slice(key) for key in file.offset_keys()}
    yield Tensors(path, {key: entry_of(path, key, x) for key, x in slices.items()},
                  file.metadata() or {}, read)


def entry_of(path: pathlib.Path, name: str, x: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of one of safetensors' slices."""
  dtype, shape = x.get_dtype(), tuple(x.get_shape())
  if dtype.startswith('F8_'):
    raise ValueError(f'{path} is in 8 bit floats, fp8 ({name[:200]!r} has dtype {dtype!r}), which '
                     'lack their scales and the precision that gradients need: take the same '
                     'model in fp16, bf16 or float32')
  if dtype not in DTYPES:
    raise invalid(path, f'{name[:200]!r} has dtype {dtype!r}; known are {[*DTYPES]}')
  if len(shape) > MAX_RANK or math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
    raise invalid(path, f'{name[:200]!r} has too many axes or elements, {str(shape)[:200]}')
  return jax.ShapeDtypeStruct(shape, DTYPES[dtype])


@contextlib.contextmanager
def opened_all(path: str | os.PathLike, *,
               sha256: str | Mapping[str, str] | None = None) -> Iterator[list[Tensors]]:
  """The one file of a .safetensors path, or the shards of an index, checked against their hashes
  where given."""
  path = pathlib.Path(path)
  shards = files_of(path)
  if isinstance(sha256, str) and path.suffix == INDEX:
    raise ValueError(f'{path}: one sha256 cannot vouch for many shards, give {{file name: sha256}}')
  hashes = {path.name: sha256} if isinstance(sha256, str) else sha256
  safe_files.check_hashes(path, {file.name: file for file in shards}, hashes)
  with contextlib.ExitStack() as stack:
    files = [stack.enter_context(opened(file)) for file in shards]
    for file in files:
      keys = shards[file.path]
      if keys is not None and keys != file.entries.keys():
        raise ValueError(f'{path} and its shard {file.path.name} disagree: the index alone has '
                         f'{safe_files.listed(sorted(keys - file.entries.keys()))}, the shard '
                         f'alone {safe_files.listed(sorted(file.entries.keys() - keys))}')
    yield files


def files_of(path: pathlib.Path) -> dict[pathlib.Path, set[str] | None]:
  """The files that hold the tensors of a .safetensors path or of an index of shards, which alone
  says the keys of each."""
  if path.suffix != INDEX:
    return {path: None}
  table = safe_files.read_json(path).get('weight_map')
  if not isinstance(table, dict) or not table:
    raise ValueError(f'{path} has no weight_map: it is no index of shards')
  shards = {}
  for key, name in table.items():
    if not isinstance(name, str) or not re.fullmatch(SHARD, name):
      raise ValueError(f'{path} puts {key[:200]!r} into {str(name)[:200]!r}, which is no '
                       '.safetensors file beside it')
    shards.setdefault(path.parent / name, set()).add(key)
  return shards
