"""A deformable tetrahedral mesh (DMTet, Shen et al. 2021): a signed distance at the nodes of a
grid, which may each move by a cell, and a color field. Its surface is made of triangles in every
step and drawn as such: sharp where a volume is soft, and no prior sees a fog.

Only nodes beside the surface have a gradient, so it moves a cell at a time and no new part appears
in empty space: start it near its goal, from the run of another scene (config.start or
config.stages), or where the prior is clear.
"""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdreamer.meshes import drawing, tetrahedra
from jaxdreamer.scenes import fields, sdf_voxels, volsdf, voxels
from jaxdreamer.scenes.hashgrid import hashgrid
from jaxdreamer.scenes.mlp import mlp
from jaxdreamer.types import Scene

TEXTURES = {'voxels': voxels.voxels, 'hashgrid': hashgrid, 'mlp': mlp}
SHARPNESS = 500.                       # of the density that `field` says for the inside
TOGETHER = 2 ** 16                     # nodes at which another scene is asked together


def nodes(box: Float[Array, '2 3'], resolution: int) -> Float[Array, 'n n n 3']:
  """The nodes of a grid of `resolution` cells a side between two corners."""
  axes = [jnp.linspace(box[0, k], box[1, k], resolution + 1) for k in range(3)]
  return jnp.stack(jnp.meshgrid(*axes, indexing='ij'), -1)


def dmtet(*, levels: tuple[int, ...] = (9, 17, 33), blurred: bool = True, radius: float = .5,
          extent: float = 1., room: float = 4., tau: float = 10.,
          texture: str | Scene = 'voxels') -> Scene:
  """A grid of levels[-1]^3 nodes over the cube [-extent, extent]^3, at first a gray sphere.

  Args:
    levels: nodes a side of the grids whose sum is the distance; threestudio's is one, (129,),
      ProlificDreamer's (257,).
    blurred: True: the distance is blurred as it is read, see sdf_voxels.py.
    radius: of the sphere.
    extent: half a side of the cube.
    room: cells that the surface may meet, in resolution^2: a step takes memory for so many, and
      says as `dropped` what had no room.
    tau: the density at which the surface of an earlier scene lies that is no distance; 25 in
      threestudio, 10 in CSD's refinement.
    texture: 'voxels', 'hashgrid' or 'mlp', with the options of that scene, whose color it has.
  """
  resolution = levels[-1] - 1
  paint = TEXTURES[texture]() if isinstance(texture, str) else texture

  def init(key: Key[Array, '']):
    box = extent * jnp.array([[-1.] * 3, [1.] * 3])
    sdf = jax.vmap(fields.length)(nodes(box, resolution).reshape(-1, 3)) - radius
    zero = {f'grid_{n}': jnp.zeros((n, n, n, 1)) for n in levels}
    shape = (resolution + 1,) * 3
    return {'sdf': zero | {f'grid_{resolution + 1}': sdf.reshape(*shape, 1)}, 'box': box,
            'deformation': jnp.zeros((*shape, 3)), 'texture': paint.init(key)}

  def prepare(params, y):
    box = jax.lax.stop_gradient(params['box'])
    cell = (box[1] - box[0]) / resolution
    shift = jnp.tanh(params['deformation']) * cell[None, None, None]
    sdf = voxels.total(params['sdf'], levels)
    sdf = sdf_voxels.blur(sdf) if blurred else sdf
    mesh = tetrahedra.march(sdf[..., 0], nodes(box, resolution) + shift,
                            cubes=round(room * resolution ** 2))
    grid = jnp.concatenate([sdf, shift], -1)
    return {'mesh': mesh, 'grid': voxels.pair_rows(grid), 'box': box,
            'texture': paint.prepare(params['texture'], y)}

  def focus(code, step):
    return code | {'texture': paint.focus(code['texture'], step)}

  def color(code, xyz):
    return paint.field(code['texture'], xyz)[1]

  def field(code, xyz):
    low, high = code['box']
    at = lambda xyz: voxels.trilinear(code['grid'], 2. * (xyz - low) / (high - low) - 1.)
    still = xyz - at(xyz)[1:]                    # from where the grid moved to here, nearly
    return volsdf.density(at(still)[0], sharpness=SHARPNESS), color(code, xyz)

  def render(code, camera, *, size, background, shade):
    return drawing.image(code['mesh'], lambda xyz: color(code, xyz)[:3], camera, size=size,
                         background=background, shade=shade, radius=extent)

  return Scene(init, prepare, field, focus, render=render, mesh=lambda code: code['mesh'],
               adopt=partial(adopted, tau=tau))


def adopted(params: dict, object, *, tau: float, margin: float = .1) -> dict:
  """The parameters with the surface of another scene's object: its distance, or clip(tau - density,
  -1, 1), and the box drawn in to what is inside, and `margin` of its size more on either side.
  ValueError where nothing is."""
  def signed(xyz):
    inside = (object.distance(xyz) if object.distance
              else jnp.clip(tau - object.density(xyz), -1., 1.))
    # no renderer shows what is beyond its ball
    return jnp.where(jnp.sum(xyz ** 2, -1) < object.radius ** 2, inside, 1.)
  finest = max(params['sdf'], key=lambda name: params['sdf'][name].shape[0])
  resolution = params['sdf'][finest].shape[0] - 1
  def at_nodes(box):
    xyz = nodes(box, resolution)
    found = jax.lax.map(lambda point: signed(point[None])[0], xyz.reshape(-1, 3),
                        batch_size=TOGETHER)
    return np.asarray(xyz), found.reshape(xyz.shape[:3])
  xyz, found = at_nodes(params['box'])
  inside = xyz[np.asarray(found) < 0.]
  if not len(inside):
    raise ValueError('config.start: its scene has no surface for a mesh to start from; its density '
                     'is to be above config.scene.dmtet.tau somewhere')
  low, high = inside.min(0), inside.max(0)
  # a cell more: the surface lies beyond its nodes
  wide = margin * (high - low) + np.ptp(np.asarray(params['box']), 0) / resolution
  box = jnp.stack([jnp.maximum(low - wide, params['box'][0]),
                   jnp.minimum(high + wide, params['box'][1])])
  sdf = jax.tree.map(jnp.zeros_like, params['sdf'])
  sdf[finest] = at_nodes(box)[1][..., None]
  return params | {'box': box, 'sdf': sdf, 'deformation': jnp.zeros_like(params['deformation'])}
