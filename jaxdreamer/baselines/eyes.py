"""The depth and normal estimators that control variates look through: each (load, see), `load` () -> weights and `see` (weights,
images [N, H, W, 3] in [0, 1]) -> disparity [N, h, w] or unit normals [N, h, w, 3] (x right, y up, z towards the camera).

`path` '' is the toybox's own; else the folder of a published one, config.json beside model.safetensors: Depth Anything or
DPT-Hybrid for depth, a DPT-Hybrid whose config.json says head_channels 3 for normals. They see `size` pixels: 224 is enough for a
correlation, and several times cheaper than what the checkpoints were trained on.
"""
import os
import pathlib
from typing import Callable

import jax
import jax.numpy as jnp

from jaxdreamer.nn import depth_anything, dinov2, dpt, interpolate, safe_files
from jaxdreamer.nn import weights as weight_files
from jaxdreamer.toybox import geometry


def read_config(path: str | os.PathLike, option: str) -> dict:
  """The table in `path`/config.json. FileNotFoundError or ValueError names the option."""
  file = pathlib.Path(path) / 'config.json'
  if not file.is_file():
    raise FileNotFoundError(f'{option}={os.fspath(path)!r}: no {file}; give the folder of a published estimator')
  try:
    return safe_files.read_json(file)
  except ValueError as error:
    raise ValueError(f'{option}: {error}') from None


def loader(network, path, rows: tuple, sides: tuple[int, int]) -> Callable:
  def load():
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *sides, 3)))['params']
    return weight_files.load(pathlib.Path(path) / 'model.safetensors', like, rename=rows)
  return load


def depth(path: str, *, size: int) -> tuple[Callable, Callable]:
  """Disparity, in any affine units."""
  if not path:
    return geometry.shipped, lambda weights, x: geometry.geometry(weights, x)[0]
  config = read_config(path, 'config.estimator.ssd.depth')
  if config.get('model_type') == 'depth_anything':
    network = depth_anything.DepthAnythingForDepthEstimation(depth_anything.config_from_transformers(config))
    rows, multiple, normalisation = dinov2.DINOV2_RENAME, network.config.backbone_config.patch_size, 'imagenet'
  else:
    network = dpt.DPTForDepthEstimation(dpt.config_from_transformers(config))
    rows, multiple, normalisation = (), 32, 'midas'
  sides = interpolate.network_size(size, size, size=size, multiple=multiple)

  def see(weights, x):
    return network.apply({'params': weights}, interpolate.preprocess(x, shape=sides, normalisation=normalisation))
  return loader(network, path, rows, sides), see


def normals(path: str, *, size: int) -> tuple[Callable, Callable]:
  """Unit normals of the camera's frame."""
  if not path:
    return geometry.shipped, lambda weights, x: geometry.geometry(weights, x)[1]
  network = dpt.DPTForDepthEstimation(dpt.config_from_transformers(read_config(path, 'config.estimator.ssd.normals')))
  if network.config.head_channels != 3:
    raise ValueError(f'config.estimator.ssd.normals={path!r}: its config.json must say "head_channels": 3')
  sides = interpolate.network_size(size, size, size=size, multiple=32)

  def see(weights, x):
    x = interpolate.preprocess(x, shape=sides, normalisation='omnidata_normal')
    return dpt.unit_normals(network.apply({'params': weights}, x))
  return loader(network, path, (), sides), see
