"""Signed distances on dense voxel grids: the default scene, whose surface is smooth.

The grids of voxels.py, added up, say by how much the distance differs from a sphere's, or that of
another shape. Noise in it is blurred away as it is read; sdf.py makes it opaque.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.scenes import sdf, shapes, voxels
from jaxdreamer.schedules import Schedule
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


def sdf_voxels(*, levels: tuple[int, ...] = (10, 19, 37), features: int = 3,
               shape: str = 'sphere', radius: float = .5,
               radii: tuple[float, float, float] = (.6, .4, .4), fit: float = 0.,
               hollow: bool = False, density: str = 'volsdf',
               sharpness: Schedule = (10., 60., 200), scale: float = .01,
               extent: float = 1.) -> Scene:
  """Grids of levels[i]^3 nodes, all near 0 at the start, so that the scene starts as a gray sphere.

  Args:
    levels: nodes a side of each grid, coarse to fine.
    features: channels beside the distance; the first three are the color.
    shape: what a scene starts as: 'sphere', 'ellipsoid', or a closed mesh's file.
    radius: of the sphere.
    radii: of the ellipsoid, along x, y and z.
    fit: how far from 0 the mesh reaches, moved and scaled; 0: it stays as its file says.
    hollow: True: that shape is of air, and all around it solid, for scenes one stands in.
    density: 'volsdf', or 'neus': opaque no farther out where a ray grazes the surface.
    sharpness: of the density, VolSDF's 1 / beta or NeuS's s, along the run.
    scale: standard deviation of the grids at the start; of a mesh, of the colors alone.
    extent: half a side of the cube that the grids fill.
  """
  start = shapes.start(shape, radius=radius, radii=radii, fit=fit, extent=extent,
                       option='config.scene.sdf_voxels.shape', hollow=hollow)

  def init(key):
    params = voxels.grids(levels, 1 + features, scale=scale)(key)
    # a sphere's surface may be rough, a mesh is what was asked for
    return params if shape in shapes.FORMULAS else {
      name: grid.at[..., 0].set(0.) for name, grid in params.items()}

  def prepare(params, y):
    grid = voxels.total(params, levels)
    return voxels.pair_rows(jnp.concatenate([blur(grid[..., :1]), grid[..., 1:]], -1))

  def raw(code, xyz):
    return voxels.trilinear(code, xyz / extent)

  return sdf.scene(init, prepare, raw, start=start, density=density, sharpness=sharpness)
