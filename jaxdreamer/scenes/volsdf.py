"""Signed distances as densities (VolSDF, Yariv et al. 2021): what the prompt-amortised generators
of ScaleDreamer share.

A code holds, beside what its `encode` looks up, two bias-free ReLU networks of the looked-up
features, as lists of kernels:
'sdf' -> [1] and 'rgb' -> [3]. The distance, negative inside, is the first plus |xyz| - radius: a
scene starts as a sphere.
What a generator looks up fills the cube [-extent, extent]^3; ScaleDreamer's reaches to 2, with the
same radii and sharpness.
"""
from typing import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.scenes import fields
from jaxdreamer.types import Code, Init, Prepare, Scene


def density(distance: fields.Scalar, *, sharpness: fields.Scalar | float = 30.) -> fields.Scalar:
  """VolSDF Eqs. 2 and 3: sharpness times the Laplace distribution function of -distance, of scale 1
  / sharpness. It goes to `sharpness` inside and to 0 outside."""
  away = jnp.where(distance > 0., distance, -distance)  # |distance|, whose slope at 0 is not 0
  tail = .5 * jnp.exp(-sharpness * away)
  return sharpness * jnp.where(distance > 0., tail, 1. - tail)


def wide_sigmoid(x: Float[Array, '3']) -> Float[Array, '3']:
  """A sigmoid .001 wider on either side, so that 0 and 1 are within reach (mip-NeRF, appendix)."""
  return 1.002 * jax.nn.sigmoid(x) - .001


def init_networks(key: Key[Array, ''], n: int, *, hidden: tuple[int, ...]) -> dict:
  """'sdf' and 'rgb' from n features. The last layers are small, so that the start is a gray sphere
  whatever the features."""
  def kernels(key, out):
    *inner, k_last = jax.random.split(key, len(hidden) + 1)
    layers = [fields.dense_init(k, a, b)['kernel'] for k, a, b in zip(inner, (n, *hidden), hidden)]
    return [*layers, fields.dense_init(k_last, hidden[-1], out, gain=1e-4)['kernel']]
  k_sdf, k_rgb = jax.random.split(key)
  return {'sdf': kernels(k_sdf, 1), 'rgb': kernels(k_rgb, 3)}


def surface(init: Init, prepare: Prepare, encode: Callable[[Code, Array], Array], *, radius: float,
            squash: Callable[[Array], Array] = jax.nn.sigmoid) -> Scene:
  """The Scene of a generator: `prepare` (params, y) -> code, `encode` (code, xyz [3]) -> features
  [n] of a point."""
  def signed(code, encoded, xyz):
    return fields.network(code['sdf'], encoded)[0] + fields.length(xyz) - radius

  def field(code, xyz):
    encoded = encode(code, xyz)
    return density(signed(code, encoded, xyz)), squash(fields.network(code['rgb'], encoded))

  def distance(code, xyz):
    return signed(code, encode(code, xyz), xyz)

  return Scene(init, prepare, field, distance=distance)
