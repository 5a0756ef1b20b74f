"""w(t), the weight of a residual at time t: each (schedule, t [N]) -> [N]. An estimator names it,
the step multiplies by it."""
from typing import Callable

import jax.numpy as jnp

WEIGHTS = {
  'sigma2': lambda schedule, t: schedule.sigma(t) ** 2,                       # DreamFusion
  'uniform': lambda schedule, t: jnp.ones_like(t),
  'alpha_sigma2': lambda schedule, t: schedule.alpha(t) * schedule.sigma(t) ** 2,       # Fantasia3D
}


def named(weight: str) -> Callable:
  """The w of this name; ValueError where there is none."""
  if weight not in WEIGHTS:
    raise ValueError(f'weight={weight!r}: takes one of {sorted(WEIGHTS)}')
  return WEIGHTS[weight]
