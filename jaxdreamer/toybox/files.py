"""The training commands' own checkpoints: a pytree in one safetensors file, written whole or not at
all."""
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors.numpy import load_file, save_file

from jaxdreamer import files


def save(path: str, tree: PyTree) -> None:
  """Writes the leaves by their key paths."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  with files.whole(path) as draft:
    save_file({jax.tree_util.keystr(p): np.asarray(v) for p, v in leaves}, draft)


def restore(path: str, like: PyTree) -> PyTree:
  """The tree of `like`'s structure that `save` wrote."""
  stored = load_file(path)
  return jax.tree_util.tree_map_with_path(lambda p, v: jnp.asarray(stored[jax.tree_util.keystr(p)]),
                                          like)
