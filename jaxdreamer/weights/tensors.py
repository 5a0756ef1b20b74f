"""Reader of safetensors files, one or sharded, that trusts nothing the file says.

Such a file is the header's length (8 bytes, little endian), a JSON header {key: {dtype, shape,
data_offsets}}, and the tensors one after another without gaps. Every field is checked against the
file's size before a tensor is read, and tensors are read into memory that the caller lends: nothing
is mapped. Errors are those of safe_files.py. Links are followed; a name within an index stays in
the folder of the index.
"""
import contextlib
import math
import os
import pathlib
import re
from typing import Any, BinaryIO, Iterator, Mapping, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdreamer.weights import safe_files

MAX_HEADER = 4 * 2 ** 20                 # bytes; Stable Diffusion XL in one file needs 0.4 MiB
MAX_KEY = 512                            # characters of a tensor's name
MAX_ELEMENTS = 2 ** 40                   # of a shape, zeros counted as ones
INDEX = '.json'                          # how the name of an index of shards ends
SHARD = r'[\w][\w.\-]*\.safetensors'     # a plain name, in the index's own folder
DTYPES = {'BOOL': jnp.bool_, 'U8': jnp.uint8, 'I8': jnp.int8, 'U16': jnp.uint16, 'I16': jnp.int16,
          'U32': jnp.uint32,
          'I32': jnp.int32, 'U64': jnp.uint64, 'I64': jnp.int64, 'F16': jnp.float16,
          'BF16': jnp.bfloat16,
          'F32': jnp.float32, 'F64': jnp.float64}


class Entry(NamedTuple):
  """A tensor as the header describes it; `begin` and `end` count bytes from the start of the
  file."""
  dtype: np.dtype
  shape: tuple[int, ...]
  begin: int
  end: int

  @property
  def size(self) -> int:
    """Bytes."""
    return self.end - self.begin


class Tensors(NamedTuple):
  """An open safetensors file whose header is sound."""
  path: pathlib.Path
  file: BinaryIO
  entries: dict[str, Entry]
  metadata: dict[str, str]

  def read(self, begin: int, raw: np.ndarray) -> None:
    """Fills these bytes with the file's from byte `begin`. One call gives at most 2 GiB; threads
    share no position."""
    done = 0
    while done < raw.size:
      count = os.preadv(self.file.fileno(), [raw[done:]], begin + done)
      if not count:
        raise ValueError(f'{self.path} ended at byte {begin + done} while it was read')
      done += count


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[Tensors]:
  """A safetensors file, its header read and checked."""
  path = pathlib.Path(path)
  with safe_files.regular(path) as file:
    size = os.fstat(file.fileno()).st_size
    start = file.read(safe_files.HEAD)
    file.seek(8)
    # a length may look like the mark of another kind of file
    head, headed = start[:8], start[8:9] == b'{'
    if not headed and (found := safe_files.what_is(start)):
      raise ValueError(f'{path} is no valid safetensors file: it {found}')
    if path.suffix.lower() in safe_files.PICKLES or not headed and re.match(
        rb'PK|\x80[\x02-\x05]', head):
      raise ValueError(safe_files.pickle_refusal(path))
    length = int.from_bytes(head, 'little')
    if len(head) < 8 or length > size - 8:
      raise invalid(path, f'{size} bytes cannot hold the header of {length} bytes that it '
                    'announces' + (
f'; it begins with the text {text!r}' if (text := safe_files.words_of(start)) else ''))
    if length > MAX_HEADER:
      raise invalid(path, f'a header of {length} bytes, at most {MAX_HEADER} are read')
    header = safe_files.parsed(path, file.read(length))
    metadata = header.pop('__metadata__', {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str)
                                                 for value in metadata.values()):
      raise invalid(path, '__metadata__ is no table of strings')
    entries = {key: entry_of(path, key, value, 8 + length) for key, value in header.items()}
    end = 8 + length
    for key, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
      if entry.begin != end:
        raise invalid(path, f'the tensor {key!r} begins at byte {entry.begin}, not where the one '
                      f'before it ends ({end})')
      end = entry.end
    if end != size:
      raise invalid(path, f'its tensors end at byte {end}, the file at {size}: it is cut short or '
                    'has bytes no tensor owns')
    yield Tensors(path, file, entries, metadata)


def entry_of(path: pathlib.Path, name: str, value: Any, start: int) -> Entry:
  """The checked entry of a header whose data begin at byte `start`."""
  if len(name) > MAX_KEY:
    raise invalid(path, f'a key of {len(name)} characters, at most {MAX_KEY} are read')
  if not isinstance(value, dict) or value.keys() != {'dtype', 'shape', 'data_offsets'}:
    raise invalid(path, f'the entry of {name!r} is not dtype, shape and data_offsets')
  dtype, shape, offsets = value['dtype'], value['shape'], value['data_offsets']
  if isinstance(dtype, str) and dtype.startswith('F8_'):
    raise ValueError(f'{path} is in 8 bit floats, fp8 ({name!r} has dtype {dtype!r}), which lack '
                     'their scales and the precision '
                     'that gradients need: take the same model in fp16, bf16 or float32')
  if not isinstance(dtype, str) or dtype not in DTYPES:
    raise invalid(path, f'{name!r} has dtype {str(dtype)[:40]!r}; known are {[*DTYPES]}')
  if not counts(shape) or not counts(offsets) or len(offsets) != 2 or len(shape) > 8:
    raise invalid(path, f'{name!r} has a shape or data_offsets that are no list of counts')
  if math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
    raise invalid(path, f'{name!r} has too many elements')
  dtype, (begin, end) = jnp.dtype(DTYPES[dtype]), offsets
  if end - begin != math.prod(shape) * dtype.itemsize:
    raise invalid(path, f'{name!r} has {end - begin} bytes for {dtype.name} {tuple(shape)}')
  return Entry(dtype, tuple(shape), start + begin, start + end)


def counts(value: Any) -> bool:
  """Whether a JSON value is a list of integers >= 0 that fit 64 bits."""
  return isinstance(value, list) and all(type(n) is int and 0 <= n < 2 ** 63 for n in value)


def invalid(path: pathlib.Path, cause: str) -> ValueError:
  """The error of a broken safetensors file."""
  return ValueError(f'{path} is no valid safetensors file ({cause}): download or convert it again')


@contextlib.contextmanager
def opened_all(path: str | os.PathLike, *, sha256: str | Mapping[str, str]
               | None = None) -> Iterator[list[Tensors]]:
  """The one file of a .safetensors path, or the shards of an index, checked against their hashes
  where given."""
  path = pathlib.Path(path)
  shards = files_of(path)
  check_hashes(path, list(shards), sha256)
  with contextlib.ExitStack() as stack:
    files = [stack.enter_context(opened(file)) for file in shards]
    for file in files:
      keys = shards[file.path]
      if keys is not None and keys != file.entries.keys():
        raise ValueError(f'{path} and its shard {file.path.name} disagree: the index alone has '
                         f'{safe_files.listed(sorted(keys - file.entries.keys()))}, the '
                         'shard alone '
                         f'{safe_files.listed(sorted(file.entries.keys() - keys))}')
    yield files


def files_of(path: pathlib.Path) -> dict[pathlib.Path, set[str] | None]:
  """The files that hold the tensors of a .safetensors path or of an index of shards, which alone
  says the keys of each."""
  return shards_of(path) if path.suffix == INDEX else {path: None}


def shards_of(index: pathlib.Path) -> dict[pathlib.Path, set[str]]:
  """The files an index names, each with the keys it shall hold."""
  table = safe_files.read_json(index).get('weight_map')
  if not isinstance(table, dict) or not table:
    raise ValueError(f'{index} has no weight_map: it is no index of shards')
  shards = {}
  for key, name in table.items():
    if not isinstance(name, str) or not re.fullmatch(SHARD, name):
      raise ValueError(f'{index} puts {key[:MAX_KEY]!r} into {str(name)[:MAX_KEY]!r}, which is no '
                       '.safetensors file beside it')
    shards.setdefault(index.parent / name, set()).add(key)
  return shards


def check_hashes(path: pathlib.Path, files: list[pathlib.Path], sha256: str | Mapping[str, str]
                 | None) -> None:
  """ValueError unless `sha256`, where given, knows every file and is right."""
  if isinstance(sha256, str):
    if path.suffix == INDEX:
      raise ValueError(f'{path}: one sha256 cannot vouch for many shards, give '
                       '{file name: sha256}')
    sha256 = {path.name: sha256}
  if sha256 is not None:
    if absent := [file.name for file in files if file.name not in sha256]:
      raise ValueError(f'{path}: sha256 says nothing of {safe_files.listed(absent)}')
    for file in files:
      safe_files.check_hash(file, sha256[file.name])
