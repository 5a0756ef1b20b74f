"""The depth and normal estimators that control variates look through: each (load,
estimate), `load` () -> weights and `estimate` (weights, images [N, H, W, 3] in [0, 1]) -> disparity
[N, h, w] or unit normals [N, h, w, 3] (x right, y up, z towards the camera).

`path` '' is the toybox's own; else a published one: a folder of Depth Anything or DPT-Hybrid in
transformers' layout, config.json beside its weights (for normals with head_channels 3), or MiDaS's
or Omnidata's DPT-Hybrid in one safetensors file, made of its authors' pickle by the command in
nn/safe_files.py. They see `size` pixels: 224 is enough for a correlation, and several times cheaper
than what the checkpoints were trained on.
"""
import os
import pathlib
from typing import Callable

import jax
import jax.numpy as jnp

from jaxdreamer.nn import depth_anything, dinov2, dpt, folder, interpolate, midas, safe_files
from jaxdreamer.nn import weights as weight_files
from jaxdreamer.toybox import geometry


def read_config(path: str | os.PathLike, option: str) -> dict:
  """The table in `path`/config.json. FileNotFoundError or ValueError names the option."""
  file = pathlib.Path(path) / 'config.json'
  if not file.is_file():
    raise FileNotFoundError(f'{option}={os.fspath(path)!r}: no {file}; give the folder of a '
                            'published estimator, or the '
                            'safetensors file of MiDaS or Omnidata')
  try:
    return safe_files.read_json(file)
  except ValueError as error:
    raise ValueError(f'{option}: {error}') from None


def loader(network, file: pathlib.Path, rows: tuple, sides: tuple[int, int]) -> Callable:
  def load():
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *sides, 3)))['params']
    return weight_files.load(file, like, rename=rows)
  return load


def through(network, file: pathlib.Path, rows: tuple, *, size: int, multiple: int,
            normalization: str) -> tuple[Callable, Callable]:
  """(load, estimate) of a network; what it returns, as it is."""
  sides = interpolate.network_size(size, size, size=size, multiple=multiple)

  def estimate(weights, x):
    return network.apply({'params': weights},
                         interpolate.preprocess(x, shape=sides, normalization=normalization))
  return loader(network, file, rows, sides), estimate


def hybrid(path: str, option: str, *, channels: int) -> tuple[dpt.DPTForDepthEstimation,
                                                              pathlib.Path, tuple]:
  """(network, its weights file, the rows that read it) of a DPT-Hybrid whose output has so many
  channels."""
  path = pathlib.Path(path)
  if path.is_file():
    config, file, rows = midas.config(path), path, midas.MIDAS_RENAME
  else:
    config, file, rows = dpt.config_from_transformers(read_config(path, option)), folder.weights_in(
        path, 'model'), ()
  if config.head_channels != channels:
    raise ValueError(f'{option}={os.fspath(path)!r}: its output has {config.head_channels} '
                     f'channels, {channels} are wanted; a '
                     'config.json says them in "head_channels"')
  return dpt.DPTForDepthEstimation(config), file, rows


def depth(path: str, *, size: int) -> tuple[Callable, Callable]:
  """Disparity, in any affine units."""
  if not path:
    return geometry.shipped, lambda weights, x: geometry.geometry(weights, x)[0]
  option = 'config.estimator.ssd.depth'
  config = {} if pathlib.Path(path).is_file() else read_config(path, option)
  if config.get('model_type') == 'depth_anything':
    network = depth_anything.DepthAnythingForDepthEstimation(
        depth_anything.config_from_transformers(config))
    return through(network, folder.weights_in(pathlib.Path(path), 'model'), dinov2.DINOV2_RENAME,
                   size=size,
                   multiple=network.config.backbone_config.patch_size, normalization='imagenet')
  return through(*hybrid(path, option, channels=1), size=size, multiple=32, normalization='midas')


def normals(path: str, *, size: int) -> tuple[Callable, Callable]:
  """Unit normals of the camera's frame."""
  if not path:
    return geometry.shipped, lambda weights, x: geometry.geometry(weights, x)[1]
  load, estimate = through(*hybrid(path, 'config.estimator.ssd.normals', channels=3), size=size,
                      multiple=32,
                      normalization='omnidata_normal')
  return load, lambda weights, x: dpt.unit_normals(estimate(weights, x))
