"""Strict reader and writer of safetensors files, one or sharded, in the published (diffusers,
transformers, torch) layout.

One rule names everything: a path of the linen parameter tree, joined by dots, is the file's key,
with `_3` read as `.3` (`linear_1` excepted) and the last name read as torch's:
    ['down_blocks_0']['resnets_1']['conv1']['kernel']  <->  down_blocks.0.resnets.1.conv1.weight
so several models share one file as branches of one tree, {'unet': ..., 'text_model': ...}. Kernels
are transposed: convolutions [kh, kw, in, out] <-> [out, in, kh, kw], dense [in, out] <-> [out, in];
all else is stored as it is. A tree is a nested dict of arrays: `variables['params']`, or its
jax.eval_shape, without the outer 'params'.

tensor_files.py opens the files. FileNotFoundError where nothing is, ValueError for all else, in one
line that names the file and the cause.
"""
import functools
import json
import math
import os
import re
from types import MappingProxyType
from typing import Any, Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from jaxtyping import PyTree

from jaxdreamer.weights import safe_files, tensor_files

LEAVES = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}  # linen's name -> torch's
TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}  # axes of a kernel, by rank
TO_LINEN = {2: (1, 0), 4: (2, 3, 1, 0)}
ALIGNED = 64                             # bytes
View = Callable[[np.ndarray], np.ndarray]


def key_of(path: tuple[str, ...]) -> str:
  """The published key of a parameter's path."""
  names = [re.sub(r'(?<!^linear)_(\d+)(?=_|$)', r'.\1', name) for name in path[:-1]]
  return '.'.join([*names, LEAVES.get(path[-1], path[-1])])


def keys_of(tree: PyTree) -> dict[str, tuple[tuple[str, ...], Any]]:
  """{published key: (path, leaf)}. ValueError where two paths would share a key."""
  flat = traverse_util.flatten_dict(tree)
  keys = {key_of(path): (path, leaf) for path, leaf in flat.items()}
  if len(keys) != len(flat):
    raise ValueError(f'{len(flat)} parameters share {len(keys)} published keys')
  return keys


def transpose(path: tuple[str, ...], x: np.ndarray, axes: dict[int, tuple[int, ...]]) -> np.ndarray:
  """Kernels change their order of axes; other parameters do not."""
  return x.transpose(axes[x.ndim]) if path[-1] == 'kernel' and x.ndim in axes else x


def identity(x: np.ndarray) -> np.ndarray:
  """The tensor as it is."""
  return x


def renamed(key: str, rename: Sequence[tuple]) -> list[tuple[str, View]]:
  """What a file's tensor becomes by the rows of `load`: new keys, each with the view of the tensor
  that belongs to it."""
  found = [(key, identity)]
  for pattern, replacement, *views in rename:
    pattern, next_found = re.compile(pattern), []
    for old, view in found:
      if not pattern.search(old):
        next_found.append((old, view))
      # parts of equal length, of a tensor not yet viewed otherwise
      elif isinstance(replacement, tuple):
        next_found += [(pattern.sub(new, old), functools.partial(part, i, len(replacement)))
                       for i, new in enumerate(replacement)]
      elif replacement is not None:
        next_found.append((pattern.sub(replacement, old), views[0] if views else view))
    found = next_found
  return found


def part(i: int, n: int, x: np.ndarray) -> np.ndarray:
  """The i-th of n equal parts of x along its first axis."""
  return x[i * (len(x) // n):(i + 1) * (len(x) // n)] if len(x) % n == 0 else x


def viewed(view: View, path: tuple[str, ...], x: np.ndarray) -> np.ndarray:
  """A file's tensor as the leaf at `path`. A tensor of a rank that the view does not know stays as
  it is."""
  try:
    x = view(x)
  except (IndexError, TypeError, ValueError):
    pass
  return transpose(path, x, TO_LINEN)


def load(path: str | os.PathLike, like: PyTree, *, rename: Sequence[tuple] = (),
         dtype: Any = jnp.float32, sharding: PyTree = None,
         sha256: str | Mapping[str, str] | None = None,
         changes: Mapping[str, Callable[[], np.ndarray]] = MappingProxyType({})) -> PyTree:
  """Parameters shaped as `like` from a published .safetensors file, or from a
  .safetensors.index.json and the shards beside it. Floating tensors become `dtype`, and stand where
  `sharding` (one, or a tree of them) says. Tensors are read and cast one by one: where they stay in
  host memory, it holds little else.

  `rename` holds (regex, replacement) rows applied in turn to the file's keys, for files of older or
  foreign layouts; a replacement of None drops the key, a tuple cuts the tensor into as many equal
  parts along its first axis, and a third element is a function of the tensor that returns a view of
  it. `sha256` is the file's hash, or {file name: hash} of every shard: without it, damage within
  the tensors goes unseen. `changes` are added, in float32, to what the file holds under a published
  key: (), a tensor of the published layout.
  ValueError lists every missing, unused and mis-shaped key, every key whose values are not finite
  or not the model's kind of number, or says what is wrong with the file; FileNotFoundError names
  the path.
  """
  expected, flat = keys_of(like), {}
  where = keys_of(jax.tree.broadcast(sharding, like)) if sharding is not None else {}
  with tensor_files.opened_all(path, sha256=sha256) as files:
    wanted = [(new, file, key, view) for file in files for key in file.entries
              for new, view in renamed(key, rename)]
    check_fit(path, expected, wanted)

    def read(new, file, key, view):
      tree_path, leaf = expected[new]
      change = transpose(tree_path, changes[new](), TO_LINEN) if new in changes else None
      value = cast(viewed(view, tree_path, file.read(key)), change,
                   dtype if kind(leaf.dtype) == 'floating' else leaf.dtype)
      return None if value is None else placed(value, where[new][1] if where else None)

    for new, *row in wanted:
      flat[expected[new][0]] = read(new, *row)
  lost = [new for new, (tree_path, _) in expected.items() if flat[tree_path] is None]
  if lost:
    raise ValueError(f'{os.fspath(path)}: values that are not finite, or too large for '
                     f'{jnp.dtype(dtype).name} or for the '
                     f'integers wanted, in {safe_files.listed(lost)}')
  return traverse_util.unflatten_dict({p: flat[p] for p, _ in expected.values()})


def check_fit(path: str | os.PathLike, expected: dict, wanted: list[tuple]) -> None:
  """ValueError unless the tensors that `rename` made of the file's are the model's: names, shapes,
  kinds of number."""
  found = {new: (file.entries[key], view) for new, file, key, view in wanted}
  if len(found) != len(wanted):
    raise ValueError(f'{os.fspath(path)}: rename gives several keys the same new name')
  missing, unused = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
  misshapen, foreign = [], []
  for key in sorted(expected.keys() & found.keys()):
    (tree_path, leaf), (entry, view) = expected[key], found[key]
    if viewed(view, tree_path, np.broadcast_to(False, entry.shape)).shape != leaf.shape:
      shape = transpose(tree_path, np.broadcast_to(False, leaf.shape), TO_TORCH).shape
      misshapen.append(f'{key} {entry.shape} for {shape}')
    if kind(entry.dtype) != kind(leaf.dtype):
      foreign.append(f'{key} {entry.dtype.name} for {jnp.dtype(leaf.dtype).name}')
  faults = {'missing': missing, 'unused': unused, 'wrong shape': misshapen, 'wrong dtype': foreign}
  if any(faults.values()):
    listed = ', '.join(f'{name} {safe_files.listed(keys)}' for name, keys in faults.items())
    raise ValueError(f'{os.fspath(path)} does not fit the model: {listed}')


def kind(dtype: Any) -> str:
  """Floats, integers and truth values are not each other."""
  kinds = {'floating': jnp.floating, 'integer': jnp.integer}
  return next((name for name, cls in kinds.items() if jnp.issubdtype(dtype, cls)), str(dtype))


def cast(x: np.ndarray, change: np.ndarray | None, dtype: Any) -> np.ndarray | None:
  """x as a contiguous array of `dtype`, after `change` is added in float32 where there is one; None
  where `dtype` cannot hold a value, or one is not finite."""
  with np.errstate(over='ignore', invalid='ignore'):
    if change is not None:
      x = x.astype(np.float32) + change
    new = aligned(x.shape, jnp.dtype(dtype))
    new[...] = x
  return new if (finite(new) if kind(dtype) == 'floating' else (new == x).all()) else None


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """An empty array that a CPU device takes over as it is; it copies what starts elsewhere."""
  size = math.prod(shape) * dtype.itemsize
  raw = np.empty(size + ALIGNED, np.uint8)
  return raw[-raw.ctypes.data % ALIGNED:][:size].view(dtype).reshape(shape)


def finite(x: np.ndarray) -> bool:
  """Whether no float has an infinity's exponent: read as integers, such are the greatest of either
  sign. np.isfinite is eight times slower in half precision."""
  signed, unsigned = (np.dtype(f'{kind}{x.dtype.itemsize}') for kind in 'iu')
  above, below = np.array(np.inf, x.dtype).view(signed), np.array(-np.inf, x.dtype).view(unsigned)
  return bool(x.view(signed).max(initial=0) < above and x.view(unsigned).max(initial=0) < below)


def placed(value: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
  """The array on its devices, each given its own shard; waits, so that no copy lingers in host
  memory."""
  if sharding is None:
    return jax.device_put(value).block_until_ready()
  return jax.make_array_from_callback(value.shape, sharding,
                                      lambda index: value[index]).block_until_ready()


def save(path: str | os.PathLike, params: PyTree, *, metadata: dict[str, Any] | None = None,
         dtype: Any = jnp.float16) -> None:
  """Write parameters in the published layout, floating ones as `dtype`; metadata that are no
  strings become JSON.

  The file appears whole or not at all. ValueError lists parameters that `dtype` cannot hold.
  """
  stored, lost = {}, []
  for key, (tree_path, leaf) in keys_of(params).items():
    value = np.asarray(leaf)
    if jnp.issubdtype(value.dtype, jnp.floating):
      with np.errstate(over='ignore'):
        small = value.astype(dtype)
      if not np.isfinite(small.astype(np.float32)).all():
        lost.append(key)
      value = small
    stored[key] = np.ascontiguousarray(transpose(tree_path, value, TO_TORCH))
  if lost:
    raise ValueError(f'{os.fspath(path)}: {jnp.dtype(dtype).name} cannot hold, or not finite: '
                     f'{lost}')
  text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in (metadata or {}).items()}
  path = os.fspath(path)
  safetensors.numpy.save_file(stored, f'{path}.part', metadata={'format': 'pt', **text})
  os.replace(f'{path}.part', path)


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
  """The table of strings that `save` wrote beside the tensors; errors as load's."""
  with tensor_files.opened(path) as file:
    return file.metadata
