"""What a scene of a signed distance starts as: a sphere, an ellipsoid, or the mesh in a file. It is
a distance that is never trained; the scene learns by how much its own differs.

The distance of a mesh is a grid among the parameters, under 'shape': what reads them needs the file
no more.
"""
from functools import partial
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdreamer.meshes import files, signed_distance
from jaxdreamer.scenes import fields, voxels
from jaxdreamer.types import Code, Params

FORMULAS = ('sphere', 'ellipsoid')    # what a shape is called that is no file
NODES = 65                       # a side of the grid that holds the distance of a mesh


class Start(NamedTuple):
  """A distance that is not trained."""
  init: Callable[[], Params]             # () -> what of it is among the parameters
  prepare: Callable[[Params], Code]      # these -> its code
  distance: Callable[[Code, Array], Array]       # (its code, xyz [3]) -> []


def ellipsoid(xyz: fields.Point, *, radii: tuple[float, float, float]) -> fields.Scalar:
  """The distance of an ellipsoid along the axes to first order: exact, in value and slope, on its
  surface, and everywhere of a sphere."""
  axes = jnp.array(radii)
  far = fields.length(xyz / axes)
  return far * (far - 1.) / fields.length(xyz / axes ** 2)


def start(shape: str, *, radius: float, radii: tuple[float, float, float], fit: float,
          extent: float, option: str, hollow: bool = False) -> Start:
  """The Start of a scene's options: `shape` is 'sphere', 'ellipsoid' or a mesh file, in the cube
  [-extent, extent]^3; `hollow` turns it inside out; `option` is what errors call the shape."""
  sign = -1. if hollow else 1.
  if shape in FORMULAS:
    of = (partial(ellipsoid, radii=radii) if shape == 'ellipsoid'
          else lambda xyz: fields.length(xyz) - radius)
    return Start(dict, lambda params: (), lambda code, xyz: sign * of(xyz))
  # as the run begins, not when its shapes are asked for: by then the file may be elsewhere
  read = partial(of_file, shape, fit=fit, extent=extent, option=option)
  grid = jax.ShapeDtypeStruct((NODES,) * 3 + (1,), jnp.float32)
  return Start(lambda: {'shape': jax.pure_callback(read, grid)},
               lambda params: voxels.pair_rows(jax.lax.stop_gradient(params['shape'])),
               lambda code, xyz: sign * voxels.trilinear(code, xyz / extent)[0])


def of_file(path: str, *, fit: float, extent: float,
            option: str) -> Float[np.ndarray, 'n n n 1']:
  """The signed distance of the mesh in a file at NODES^3 points. Errors as `placed`'s."""
  vertices, faces = placed(path, fit=fit, extent=extent, option=option)
  return signed_distance.grid(vertices, faces, n=NODES,
                              extent=extent)[..., None].astype(np.float32)


def placed(path: str, *, fit: float, extent: float, option: str) -> tuple[np.ndarray, np.ndarray]:
  """The closed mesh in a file, where the scene has it: as the file says, or about 0 so that it
  reaches as far as `fit`. ValueError for one that is not closed, or does not lie in the cube."""
  vertices, faces = files.weld(files.read(path, option=option))
  if open_edges := signed_distance.open_edges(faces):
    raise ValueError(f'{option}={path!r}: takes a closed mesh, whose faces turn alike, and '
                     f'{open_edges:,} of its edges have a face on one side alone')
  if fit:
    center, reach = files.ball(vertices)
    vertices = (vertices - center) * (fit / reach)
  if (far := float(np.abs(vertices).max())) > extent:
    raise ValueError(f'{option}={path!r}: reaches to {far:.3g}, out of the cube that the scene '
                     f'fills, to {extent:g}: give {option.removesuffix("shape")}fit, which moves '
                     'and scales it')
  return vertices, faces
