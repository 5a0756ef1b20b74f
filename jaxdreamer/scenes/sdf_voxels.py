"""Signed distances on dense voxel grids: the default scene, whose surface is smooth.

The grids of voxels.py, added up, say by how much the distance differs from a sphere's. Noise in it
is blurred away as it is read, and VolSDF's density grows sharper along the run: a soft surface
moves far, a sharp one has crisp edges.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.scenes import fields, volsdf, voxels
from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Scene


def blur(grid: Float[Array, 'n n n c']) -> Float[Array, 'n n n c']:
  """(1, 2, 1) / 4 along each axis: what is linear stays as it is, but for the outermost nodes,
  which count as their own neighbors, and what alternates from node to node goes."""
  for axis in range(3):
    padded = jnp.pad(grid, [(int(axis == a),) * 2 for a in range(4)], mode='edge')
    before, here, after = (jax.lax.slice_in_dim(padded, i, i + len(grid), axis=axis)
                           for i in range(3))
    grid = .25 * (before + after) + .5 * here
  return grid


def sdf_voxels(*, levels: tuple[int, ...] = (10, 19, 37), features: int = 3, radius: float = .5,
               hollow: bool = False, sharpness: Schedule = (10., 60., 200), scale: float = .01,
               extent: float = 1.) -> Scene:
  """Grids of levels[i]^3 nodes, all near 0 at the start, so that the scene starts as a gray sphere.

  Args:
    levels: nodes a side of each grid, coarse to fine.
    features: channels beside the distance; the first three are the color.
    radius: of the sphere that a scene starts from.
    hollow: True: that sphere is of air, and all around it solid, for scenes one stands in.
    sharpness: of VolSDF's density, 1 / beta, along the run.
    scale: standard deviation of the grids at the start.
    extent: half a side of the cube that the grids fill.
  """
  def prepare(params, y):
    grid = voxels.total(params, levels)
    return voxels.pair_rows(jnp.concatenate([blur(grid[..., :1]), grid[..., 1:]], -1))

  def focus(code, step):
    return code, at(sharpness, step)

  def signed(offset, xyz):
    outward = fields.length(xyz) - radius
    return offset - outward if hollow else offset + outward

  def field(code, xyz):
    pairs, sharp = code
    raw = voxels.trilinear(pairs, xyz / extent)
    return volsdf.density(signed(raw[0], xyz), sharpness=sharp), jax.nn.sigmoid(raw[1:])

  def distance(code, xyz):
    return signed(voxels.trilinear(code[0], xyz / extent)[0], xyz)

  return Scene(voxels.grids(levels, 1 + features, scale=scale), prepare, field, focus, distance)
