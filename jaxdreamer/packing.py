"""Many small arrays as one vector. A LoRA of a UNet has hundreds of matrices, and a program that
takes them one by one is long to compile and long to launch: what optimizer and guard do to every
number alike they do to the vector.

    pack = packed(params)                  Pack(the large ones, {'': the vector})
    unpacked(pack, params)                 params

What a mesh may cut (layout.py) stays by itself. A tree of few small arrays stays as it is.
"""
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdreamer import layout

SMALL, MANY = 2 ** 18, 64                # an array of so many numbers at most; so many at least

Label = Callable[[str], str | None]      # of an array's name: its vector; None where it has none


class Pack(NamedTuple):
  """A tree with None in place of its small arrays, and the vectors of these by label."""
  whole: Any
  small: dict[str, Any]


def one_vector(name: str) -> str:
  """The label of all names, where there is one vector."""
  return ''


def _small(tree: PyTree, label: Label) -> dict[str, dict[str, Any]]:
  """{label: {name: array}} of the arrays that belong in vectors, in their order."""
  small: dict[str, dict[str, Any]] = {}
  for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = layout.name(path)
    fits = x.size <= SMALL and x.dtype == jnp.float32 and not layout.cut(name)
    if fits and (key := label(name)) is not None:
      small.setdefault(key, {})[name] = x
  return small if sum(map(len, small.values())) >= MANY else {}


def packed(tree: PyTree, *, label: Label = one_vector) -> Pack | PyTree:
  """The tree's Pack; the tree itself where its small arrays are few."""
  small = _small(tree, label)
  if not small:
    return tree
  names = {name for arrays in small.values() for name in arrays}
  return Pack(jax.tree_util.tree_map_with_path(
                lambda path, x: None if layout.name(path) in names else x, tree),
              {key: jnp.concatenate([x.ravel() for x in arrays.values()])
               for key, arrays in small.items()})


def unpacked(pack: Pack | PyTree, like: PyTree, *, label: Label = one_vector) -> PyTree:
  """The tree that `packed` took, one of the names and shapes of `like`."""
  small = _small(like, label)
  if not small:
    return pack
  found = {}
  for key, arrays in small.items():
    parts = jax.lax.split(pack.small[key], [x.size for x in arrays.values()])
    found |= {name: part.reshape(x.shape) for (name, x), part in zip(arrays.items(), parts)}
  return jax.tree_util.tree_map_with_path(
    lambda path, x, whole: found.get(layout.name(path), whole), like, pack.whole)
