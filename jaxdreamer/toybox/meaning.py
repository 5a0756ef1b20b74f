"""How much captions tell in trainings, and whether the text encoder understands them: heads that
training alone needs read off a pooled text what a caption names."""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxdreamer.toybox import geometry

CAPTION_DROPPED = .1                             # the share of pictures without a caption
VIEW_WORDS = .6                                  # of captions that say from where one sees
WEIGHT = .02                                     # of `misread` in a loss


def heads(width: int) -> PyTree:
  """What reads the parts of a caption off a pooled text of this width, at its start."""
  return {name: {'kernel': jnp.zeros((width, n)), 'bias': jnp.zeros(n)}
          for name, n in geometry.HEADS.items()}


def misread(heads: PyTree, pooled: Float[Array, 'N D'],
            classes: dict[str, Int[Array, 'N']]) -> Float[Array, '']:
  """Cross-entropies of what the pooled text says, summed over heads; a mean over the captions that
  say anything."""
  total = 0.
  for name, label in classes.items():
    logp = jax.nn.log_softmax(pooled @ heads[name]['kernel'] + heads[name]['bias'][None])
    total -= jnp.where(label < 0, 0., jnp.take_along_axis(logp, jnp.maximum(label, 0)[:, None],
                                                          -1)[:, 0])
  return jnp.mean(total)
