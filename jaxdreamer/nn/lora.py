"""Low-rank adaptation (Hu et al. 2021) as a transform of parameters: any network of a tree of
weights, none of its code.

    small = init(key, weights, rank=4)
    merge(weights, small)
    beside(weights, small)

`small` is {path: {'down' [in, rank], 'up' [rank, out]}} of the matrices that match, and {path:
{'change'}} of what a camera enters by, which is trained whole. Of a convolution `down` is one of
the same size, [h, w, in, rank], and `up` one of 1 x 1, as in published files. `merge` gives weights
with kernel + scale * down @ up, or parameter + scale * change, in float32; `beside` the same for
networks of nn/layers.Dense, which add x @ down @ up as a branch; convolutions take none.

An update is far below half an ulp of a bfloat16 kernel, and lost where it is rounded to one:
merging gives float32 kernels, for networks that compute in it; one that computes in less takes the
branch, which costs no copy of the kernels either.
"""
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Key, PyTree

# diffusers' default, the attention processors; and the class embedding's way out, where it holds
# more than cameras
ATTENTION = r'(?!vae/).*/(to_(q|k|v|out_0)|class_embedding/linear_2)/kernel'
# all that one-step restoration adapts of a UNet (OSEDiff, Wu et al. 2024): attention, convolutions,
# projections, feed-forward; and of an autoencoder, whose decoder stays
UNET = r'unet/(.*/)?(to_(q|k|v|out_0)|conv\w*|proj_(in|out)|ff/net_(0/proj|2))/kernel'
ENCODER = r'vae/(encoder/(.*/)?(to_(q|k|v|out_0)|conv\w*)|quant_conv)/kernel'
CAMERA = r'(?!vae/)(.*/)?class_embedding/linear_[12]/(kernel|bias)'
CAMERA_IN = 16  # world_from_camera: numbers that enter an embedding of cameras alone


def flatten(weights: PyTree) -> dict[str, Any]:
  """{'down_0/conv/kernel': array} of nested weights or their shapes; {} where there are none."""
  return traverse_util.flatten_dict(weights, sep='/') if isinstance(weights, dict) else {}


def cameras(weights: PyTree) -> dict[str, tuple[int, ...]]:
  """{path: shape} of the two dense layers by which cameras alone enter. ProlificDreamer trains them
  whole: published Stable Diffusion has none."""
  flat = flatten(weights)
  width = lambda path: flat[re.sub(r'linear_[12]/(kernel|bias)$', 'linear_1/kernel', path)].shape[0]
  return {path: x.shape for path, x in flat.items() if re.fullmatch(CAMERA, path) and width(path)
          == CAMERA_IN}


def matching(weights: PyTree, *, matrices: str = ATTENTION) -> dict[str, tuple[int, ...]]:
  """{path: shape} of the kernels, dense [in, out] or of convolutions [h, w, in, out], whose path,
  joined by '/', the pattern matches in full, but for `cameras`."""
  whole = cameras(weights)
  return {path: x.shape for path, x in flatten(weights).items()
          if re.fullmatch(matrices, path) and x.ndim in (2, 4) and path not in whole}


def init(key: Key[Array, ''], weights: PyTree, *, rank: int, matrices: str = ATTENTION) -> PyTree:
  """`down` normal with deviation 1 / rank, as in diffusers; `up` and `change` zero: nothing is
  changed yet."""
  shapes = matching(weights, matrices=matrices)
  keys = jax.random.split(key, max(len(shapes), 1))
  low = {path: {'down': jax.random.normal(k, (*n, rank)) / rank, 'up': jnp.zeros((rank, m))}
         for k, (path, (*n, m)) in zip(keys, sorted(shapes.items()))}
  return low | {path: {'change': jnp.zeros(shape)} for path, shape in cameras(weights).items()}


def change(w: PyTree) -> Array:
  """What one entry of a LoRA adds to its parameter, in float32."""
  return w['change'] if 'change' in w else jnp.matmul(w['down'], w['up'], precision='highest')


def merge(weights: PyTree, small: PyTree, *, scale: float = 1.) -> PyTree:
  """parameter + scale * change, in float32 at least. Merging with -scale takes it back."""
  flat = flatten(weights)
  changed = {path: flat[path] + scale * change(w) for path, w in small.items()}
  return traverse_util.unflatten_dict(flat | changed, sep='/')


def beside(weights: PyTree, small: PyTree) -> PyTree:
  """`weights`, with every entry of `small` next to the parameter that it changes: 'kernel_down' and
  'kernel_up', or 'kernel_change' and 'bias_change', which nn/layers.Dense adds."""
  return traverse_util.unflatten_dict(
    flatten(weights) | {f'{path}_{part}': x for path, w in small.items() for part, x in w.items()},
    sep='/')
