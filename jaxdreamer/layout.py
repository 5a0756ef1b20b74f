"""Which part of an array each device holds.

Arrays are whole on every device, but for those that TABLE names: these are cut along the mesh axis
`model`, whole along `data`. A step gathers them where it uses them (parallel.py), and what the
optimizer keeps of a parameter is cut as the parameter is.
"""
import math
import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

# (regex that is searched in an array's name, the spec of its last axes); the first that fits rules.
# An array that does not divide by the axis stays whole.
TABLE = (
  (r'\b(kernel|embedding)$', P('model', None)),            # of networks: what a layer reads
  (r'\b(map|tables/\d+)$', P('model', None)),              # of generators and hash grids
)


def name(path) -> str:
  """('scene', 'grid_37') -> 'scene/grid_37'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def cut(path: str) -> P:
  """What TABLE says of the last axes of the array of this name."""
  return next((spec for pattern, spec in TABLE if re.search(pattern, path)), P())


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
  """How the array of this name and shape lies on the mesh."""
  found, n = cut(path), mesh.shape.get('model', 1)
  sizes = shape[len(shape) - len(found):]
  fits = len(shape) >= len(found) and all(size % n == 0 for size, axis in zip(sizes, found) if axis)
  return P(*[None] * (len(shape) - len(found)), *found) if n > 1 and found and fits else P()


def specs(tree: PyTree, mesh: Mesh) -> PyTree:
  """`spec` of each array, or of its shape."""
  return jax.tree_util.tree_map_with_path(lambda path, x: spec(name(path), np.shape(x), mesh), tree)


def shapes(tree: PyTree, mesh: Mesh) -> PyTree:
  """The shapes of arrays as they lie on the mesh."""
  return jax.tree_util.tree_map_with_path(lambda path, x: jax.ShapeDtypeStruct(
    x.shape, x.dtype, sharding=NamedSharding(mesh, spec(name(path), x.shape, mesh))), tree)


def bytes_each(tree: PyTree) -> int:
  """Bytes that a device holds of what `shapes` makes."""
  return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
             for x in jax.tree.leaves(tree))
