"""What the prior is asked about the views of a step: the texts of each, by its camera.

A Text is of one prompt, or of P prompts with that axis first: then each has V / P of the views,
side by side.
"""
from functools import partial
from typing import Any, Callable

import jax
import jax.numpy as jnp

from jaxdreamer import cameras
from jaxdreamer.diffusion import perp_neg_texts
from jaxdreamer.types import Camera, PerpNeg, Text, Views


def by_prompt(f: Callable[..., Any]) -> Callable[..., Any]:
  """(Text, *[V] arrays) -> [V] arrays for one prompt or many, of an `f` that is written for one."""
  def each(text: Text, *rows, **options):
    if text.plain.ndim == 2:
      return f(text, *rows, **options)
    prompts = text.plain.shape[0]
    split = lambda a: a.reshape(prompts, -1, *a.shape[1:])
    join = lambda a: a.reshape(-1, *a.shape[2:])
    return jax.tree.map(join, jax.vmap(partial(f, **options))(text, *jax.tree.map(split, rows)))
  return each


@by_prompt
def condition(text: Text, camera: Camera, *, words: Callable[..., Any] | None = cameras.view_bin,
              perp_neg: float = 0.) -> Views:
  """The views of a batch of cameras [V]: the prompt with the words of each, which `words` (azimuth,
  elevation) -> row of text.views chooses, or the plain prompt where that is None; with `perp_neg`,
  which scales the weights of Perp-Neg (ScaleDreamer: .5), the text between its two nearest sides,
  and the texts that it is not.

      views = condition(prior.embed('a red cube'), cameras.orbit(4))
  """
  each = lambda row: jnp.broadcast_to(row, (camera.azimuth.shape[0], *row.shape))
  if perp_neg:
    own, others, weights = jax.vmap(partial(perp_neg_texts, text.views))(camera.azimuth,
                                                                        camera.elevation)
    away = PerpNeg((others[:, 0], others[:, 1]), perp_neg * weights)
  elif words is None:
    own, away = each(text.plain), PerpNeg()
  else:
    own, away = text.views[words(camera.azimuth, camera.elevation)], PerpNeg()
  return Views(camera, own, each(text.plain), each(text.null), each(text.negative), away)
