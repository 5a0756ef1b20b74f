"""How well poor pictures are restored, on renders of the toybox that no run trains on: each figure
is a value a picture, and its mean with a bootstrap interval.

    restoration_psnr   of restored pictures, dB; bicubic_psnr of what they were made of, which was
                       enlarged cubically
    sharpness          mean difference of neighbors over that of the truth: 1 is as sharp; and
                       bicubic_sharpness
    read, bicubic_read, true_read
                       whether the toybox's reader tells shape, color and relation right
"""
from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdreamer import statistics
from jaxdreamer.toybox import degradations, geometry, render_buffer

TOGETHER = 16                                    # pictures
Scores = dict[str, Float[np.ndarray, 'N']]
Pictures = Float[Array, 'N n n 3']


def psnr(x: Pictures, truth: Pictures) -> Float[Array, 'N']:
  """Peak signal-to-noise ratio of each picture in [0, 1], dB."""
  return -10. * jnp.log10(jnp.maximum(jnp.mean((x - truth) ** 2, (1, 2, 3)), 1e-10))


def roughness(x: Pictures) -> Float[Array, 'N']:
  """Mean absolute difference of neighbors."""
  return sum(jnp.mean(jnp.abs(jnp.diff(x, axis=axis)), (1, 2, 3)) for axis in (1, 2))


def score(key: Key[Array, ''], restore: Callable[[np.ndarray], np.ndarray], *, side: int = 64,
          pictures: int = 256) -> Scores:
  """The values of `restore` ([n, side, side, 3] in [0, 1] -> the same), by name, at least so many
  of each. The same key gives the same pictures."""
  weights = geometry.shipped()

  @jax.jit
  def seen(found, made):
    truth = found.truth
    classes = geometry.labels(found.item, geometry.mirrored(found.camera))

    def read(x):
      small = jax.image.resize(x, (len(x), geometry.SIZE, geometry.SIZE, 3), 'linear')
      right = geometry.right(geometry.read(weights, small), classes)
      return jnp.stack(list(right.values())).all(0).astype(jnp.float32)
    return {'restoration_psnr': psnr(made, truth), 'bicubic_psnr': psnr(found.low, truth),
            'sharpness': roughness(made) / roughness(truth),
            'bicubic_sharpness': roughness(found.low) / roughness(truth),
            'read': read(made), 'bicubic_read': read(found.low), 'true_read': read(truth)}

  draw = jax.jit(lambda key: degradations.pairs(key, TOGETHER, size=side,
                                                share=render_buffer.WORLD_PAIRS))
  rows = []
  for k in jax.random.split(key, -(-pictures // TOGETHER)):
    found = draw(k)
    rows.append(jax.device_get(seen(found, jnp.asarray(restore(np.asarray(found.low))))))
  return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def means(scores: Scores) -> dict[str, statistics.Interval]:
  """The mean of each figure over pictures."""
  return {name: statistics.interval(statistics.clustered(values))
          for name, values in scores.items()}


def gains(scores: Scores, other: Scores) -> dict[str, statistics.Interval]:
  """By how much each figure is above another restorer's on the same pictures, a mean of their
  differences."""
  return means({name: scores[name] - other[name] for name in scores})
