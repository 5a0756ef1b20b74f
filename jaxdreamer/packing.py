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


def _labels(tree: PyTree, label: Label) -> dict[str, str]:
  """{name: label} of the arrays that belong in a vector."""
  arrays = jax.tree_util.tree_flatten_with_path(tree)[0]
  names = [layout.name(path) for path, x in arrays
           if x.size <= SMALL and x.dtype == jnp.float32 and not layout.cut(layout.name(path))]
  found = {name: key for name in names if (key := label(name)) is not None}
  return found if len(found) >= MANY else {}


def packed(tree: PyTree, *, label: Label = one_vector) -> Pack | PyTree:
  """The tree's Pack; the tree itself where its small arrays are few."""
  labels = _labels(tree, label)
  together: dict[str, list] = {}
  for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
    if (name := layout.name(path)) in labels:
      together.setdefault(labels[name], []).append(x.ravel())
  if not labels:
    return tree
  return Pack(jax.tree_util.tree_map_with_path(
                lambda path, x: None if layout.name(path) in labels else x, tree),
              {key: jnp.concatenate(parts) for key, parts in together.items()})


def unpacked(pack: Pack | PyTree, like: PyTree, *, label: Label = one_vector) -> PyTree:
  """The tree that `packed` took, one of the names and shapes of `like`."""
  labels = _labels(like, label)
  if not labels:
    return pack
  sizes: dict[str, list[int]] = {}
  for path, x in jax.tree_util.tree_flatten_with_path(like)[0]:
    if (name := layout.name(path)) in labels:
      sizes.setdefault(labels[name], []).append(x.size)
  parts = {key: iter(jax.lax.split(pack.small[key], each)) for key, each in sizes.items()}

  def one(path, x, whole):
    key = labels.get(layout.name(path))
    return whole if key is None else next(parts[key]).reshape(x.shape)
  return jax.tree_util.tree_map_with_path(one, like, pack.whole)
