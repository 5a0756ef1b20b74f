"""Dense voxel grids. Fast on a CPU, quick to learn, no network.

Several grids of different resolution over the cube [-1, 1]^3 are added up: the coarse ones move
large parts at once, the fine ones hold detail. Trilinear interpolation is linear in the grid, so
`prepare` adds the levels up once per step and a point costs one look-up however many levels there
are; where n_fine - 1 is a multiple of n_coarse - 1 this is exact.
"""
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.scenes import fields
from jaxdreamer.types import Init, Scene


def upsample(grid: Float[Array, 'n n n c'], size: int) -> Float[Array, 'm m m c']:
  """The values of a grid at the nodes of a grid of `size` nodes a side over the same cube (corners
  aligned)."""
  n = grid.shape[0]
  node = jnp.linspace(0., n - 1., size)
  # [size, n] linear interpolation
  hat = jnp.maximum(1. - jnp.abs(node[:, None] - jnp.arange(n)[None]), 0.)
  return jnp.einsum('xa,yb,zc,abcf->xyzf', hat, hat, hat, grid, optimize=True)


def pair_rows(grid: Float[Array, 'n n n c']) -> Float[Array, 'n n n-1 2*c']:
  """Neighbors along z side by side, so that a look-up touches 4 rows of memory instead of 8."""
  return jnp.concatenate([grid[:, :, :-1], grid[:, :, 1:]], -1)


def trilinear(pairs: Float[Array, 'n n m d'], xyz: Float[Array, '3']) -> Float[Array, 'c']:
  """The grid whose pair_rows these are, at one point of [-1, 1]^3; constant along each axis
  outside."""
  n, c = pairs.shape[0], pairs.shape[-1] // 2
  rows = pairs.reshape(-1, 2 * c)
  place = [jnp.clip(.5 * (v + 1.) * (n - 1), 0., n - 1.) for v in xyz]
  cell = [jnp.minimum(jnp.floor(p), n - 2.) for p in place]
  (x, y, z), (fx, fy, fz) = [i.astype(jnp.int32) for i in cell], [p - i
                                                                  for p, i in zip(place, cell)]

  def row(dx, dy):
    index = ((x + dx) * n + y + dy) * (n - 1) + z
    return rows.at[index].get(mode='promise_in_bounds', wrap_negative_indices=False)

  mix = lambda f, a, b: a + f * (b - a)
  pair = mix(fx, mix(fy, row(0, 0), row(0, 1)), mix(fy, row(1, 0), row(1, 1)))
  return mix(fz, pair[:c], pair[c:])


def grids(levels: tuple[int, ...], channels: int, *, scale: float) -> Init:
  """key -> {'grid_n': [n, n, n, channels]} of each n of `levels`, normal of standard deviation
  `scale`."""
  def init(key: Key[Array, '']):
    keys = jax.random.split(key, len(levels))
    return {f'grid_{n}': scale * jax.random.normal(k, (n, n, n, channels))
            for k, n in zip(keys, levels)}
  return init


def total(params: dict, levels: tuple[int, ...]) -> Float[Array, 'n n n c']:
  """The sum of the `grids` of `levels` at the nodes of the last."""
  return reduce(jnp.add, (upsample(params[f'grid_{n}'], levels[-1]) for n in levels))


def voxels(*, levels: tuple[int, ...] = (10, 19, 37), features: int = 3,
           activation: str = 'softplus', blob: str = 'cone',
           strength: float = 8., radius: float = .45, scale: float = .01,
           extent: float = 1.) -> Scene:
  """Grids of levels[i]^3 nodes, all near 0 at the start, so that the scene starts as the gray blob.

  Args:
    levels: nodes a side of each grid, coarse to fine.
    features: channels beside the density; the first three are the color.
    activation: of the density.
    blob: 'cone' or 'gauss', what a scene starts from, `strength` high and of this `radius`.
    strength: of the blob, before the activation.
    radius: of the blob.
    scale: standard deviation of the grids at the start.
    extent: half a side of the cube that the grids fill.
  """
  activate, bias = fields.ACTIVATIONS[activation], fields.BLOBS[blob]

  def prepare(params, y):
    return pair_rows(total(params, levels))

  def field(code, xyz):
    return fields.split_raw(trilinear(code, xyz / extent),
                            bias(xyz, strength=strength, radius=radius), activate)

  return Scene(grids(levels, 1 + features, scale=scale), prepare, field)
