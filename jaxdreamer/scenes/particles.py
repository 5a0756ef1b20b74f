"""Several scenes in one state, the particles of VSD's distribution over objects (ProlificDreamer,
Algorithm 1).

A step trains one of them, in turn, so that what a prior's LoRA learns is the score of all. Those
whose turn it is not get a gradient of zero, by which optim.chain knows them: it leaves them, and
their moments, as they are.
"""
import jax
from jaxtyping import PyTree

from jaxdreamer.types import Scene


def stacked(scene: Scene, n: int) -> Scene:
  """`n` independent scenes with the parameters of `scene`, stacked [n]. `focus` looks at number
  step % n: outputs, at a last step that n divides, show number 0."""
  def focus(code: PyTree, step) -> PyTree:
    params, y = code
    one = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, step % n, keepdims=False), params)
    return scene.focus(scene.prepare(one, y), step)
  init = lambda key: jax.vmap(scene.init)(jax.random.split(key, n))
  return scene._replace(init=init, prepare=lambda params, y: (params, y), focus=focus, adopt=None)
