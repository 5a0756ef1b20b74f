"""Low-rank adaptation (Hu et al. 2021) as a transform of parameters: any network of a tree of weights, none of its code.

    small = init(key, weights, rank=4)        # {path: {'down' [in, rank], 'up' [rank, out]}} of the matrices that match
    merge(weights, small)                     # weights, with kernel + scale * down @ up in place of each of them
"""
import re

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Key, PyTree

# diffusers' default, the attention processors; and the way in of the camera, which a frozen UNet may not have learnt
ATTENTION = r'(?!vae/).*/(to_(q|k|v|out_0)|class_embedding/linear_2)/kernel'


def matching(weights: PyTree, *, matrices: str = ATTENTION) -> dict[str, tuple[int, int]]:
  """{path: (in, out)} of the dense kernels whose path, joined by '/', the pattern matches in full."""
  flat = traverse_util.flatten_dict(weights, sep='/') if isinstance(weights, dict) else {}
  return {path: x.shape for path, x in flat.items() if re.fullmatch(matrices, path) and x.ndim == 2}


def init(key: Key[Array, ''], weights: PyTree, *, rank: int, matrices: str = ATTENTION) -> PyTree:
  """`down` normal with deviation 1 / rank, as in diffusers; `up` zero: merging changes nothing yet."""
  shapes = matching(weights, matrices=matrices)
  keys = jax.random.split(key, max(len(shapes), 1))
  return {path: {'down': jax.random.normal(k, (n, rank)) / rank, 'up': jnp.zeros((rank, m))}
          for k, (path, (n, m)) in zip(keys, sorted(shapes.items()))}


def merge(weights: PyTree, small: PyTree, *, scale: float = 1.) -> PyTree:
  """kernel + scale * down @ up. Merging with -scale takes it back."""
  flat = traverse_util.flatten_dict(weights, sep='/')
  changed = {path: flat[path] + scale * (w['down'] @ w['up']).astype(flat[path].dtype) for path, w in small.items()}
  return traverse_util.unflatten_dict(flat | changed, sep='/')
