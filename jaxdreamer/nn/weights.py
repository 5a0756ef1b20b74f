"""Strict reader and writer of safetensors files in the published (diffusers, transformers, torch) layout.

One rule names everything: a path of the linen parameter tree, joined by dots, is the file's key, with `_3` read as `.3`
(`linear_1` excepted) and the last name read as torch's:
    ['down_blocks_0']['resnets_1']['conv1']['kernel']  <->  down_blocks.0.resnets.1.conv1.weight
so several models share one file as branches of one tree, {'unet': ..., 'text_model': ...}. Kernels are transposed:
convolutions [kh, kw, in, out] <-> [out, in, kh, kw], dense [in, out] <-> [out, in]; all else is stored as it is.
A tree is a nested dict of arrays: `variables['params']`, or its jax.eval_shape, without the outer 'params'.
"""
import json
import os
import re
from typing import Any, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util
from jaxtyping import PyTree

LEAVES = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}        # linen's name -> torch's
TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}                                        # axes of a kernel, by rank
TO_LINEN = {2: (1, 0), 4: (2, 3, 1, 0)}
CONVERT = ('python -c "import sys, torch; from safetensors.torch import save_file; '
           "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = d.get('state_dict', d); "
           'save_file({k: v.clone().contiguous() for k, v in d.items()}, sys.argv[2])" IN.bin OUT.safetensors')


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


def opened(path: str | os.PathLike):
  """A handle on a safetensors file. FileNotFoundError, or ValueError with the remedy for any other format."""
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(f'no weights at {path}: download the .safetensors file there, or give the path of yours')
  try:
    return safetensors.safe_open(path, 'numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is no valid safetensors file ({error}); pickles can run code when opened and are '
                     f'refused. Convert one you trust by: {CONVERT}') from error


def load(path: str | os.PathLike, like: PyTree, *, rename: Sequence[tuple[str, str | None]] = (),
         dtype: Any = jnp.float32) -> PyTree:
  """Parameters shaped as `like` from a published file; floating tensors become `dtype`.

  `rename` holds (regex, replacement) rows applied in turn to the file's keys, for files of older or foreign layouts;
  a replacement of None drops the key. ValueError lists every missing, unused and mis-shaped key, or says that the file
  is no safetensors file; FileNotFoundError names the path.
  """
  expected = keys_of(like)
  with opened(path) as file:
    names = [(key, new) for key in file.keys() if (new := renamed(key, rename)) is not None]
    found = {new: file.get_tensor(key) for key, new in names}
  if len(found) != len(names):
    raise ValueError(f'{os.fspath(path)}: rename gives several keys the same new name')
  missing, unused = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
  flat, misshapen = {}, []
  for key in expected.keys() & found.keys():
    tree_path, leaf = expected[key]
    value = transpose(tree_path, found[key], TO_LINEN)
    if value.shape != leaf.shape:
      wanted = transpose(tree_path, np.broadcast_to(False, leaf.shape), TO_TORCH).shape
      misshapen.append(f'{key} {found[key].shape} for {wanted}')
    flat[tree_path] = value
  if missing or unused or misshapen:
    raise ValueError(f'{os.fspath(path)} does not fit the model: missing {missing}, unused {unused}, '
                     f'wrong shape {sorted(misshapen)}')
  tree = traverse_util.unflatten_dict({p: flat[p] for p, _ in expected.values()})
  return jax.tree.map(lambda x: jnp.asarray(x, dtype if jnp.issubdtype(x.dtype, jnp.floating) else None), tree)


def renamed(key: str, rename: Sequence[tuple[str, str | None]]) -> str | None:
  """A file's key after the rows of `load`; None if a row drops it."""
  for pattern, replacement in rename:
    if replacement is None and re.search(pattern, key):
      return None
    key = key if replacement is None else re.sub(pattern, replacement, key)
  return key


def save(path: str | os.PathLike, params: PyTree, *, metadata: dict[str, Any] | None = None,
         dtype: Any = jnp.float16) -> None:
  """Write parameters in the published layout, floating ones as `dtype`; metadata that are no strings become JSON.

  The file appears whole or not at all. ValueError lists parameters that `dtype` cannot hold.
  """
  tensors, lost = {}, []
  for key, (tree_path, leaf) in keys_of(params).items():
    value = np.asarray(leaf)
    if jnp.issubdtype(value.dtype, jnp.floating):
      with np.errstate(over='ignore'):
        small = value.astype(dtype)
      if not np.isfinite(small.astype(np.float32)).all():
        lost.append(key)
      value = small
    tensors[key] = np.ascontiguousarray(transpose(tree_path, value, TO_TORCH))
  if lost:
    raise ValueError(f'{jnp.dtype(dtype).name} cannot hold, or not finite: {lost}')
  text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in (metadata or {}).items()}
  path = os.fspath(path)
  safetensors.numpy.save_file(tensors, f'{path}.part', metadata={'format': 'pt', **text})
  os.replace(f'{path}.part', path)


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
  """The table of strings that `save` wrote beside the tensors; errors as load's."""
  with opened(path) as file:
    return dict(file.metadata() or {})
