"""Asynchronous score distillation (ScaleDreamer, Ma et al. 2024): the prior itself, a little later,
is the second score.

r = w(t) (eps_s(z_t; t, y) - eps_y(z_{t + dt}; t + dt, y)), the same eps in both, dt ~ U[0, eta (t -
t_min)]. A frozen network's error falls with t, so the later prediction stands in for the fine-tuned
network of VSD, at the price of one row.
eta = 0 is CSD times (scale - 1); a second term of eps itself would be SDS.
"""
from typing import Callable

import jax
import jax.numpy as jnp

from jaxdreamer.diffusion import diffuse, guided
from jaxdreamer.estimators.weights import named
from jaxdreamer.sampling import shared
from jaxdreamer.types import Estimator

LAST = .999                                      # t + dt ends here


def asd(*, guidance: Callable, t_min: Callable, eta: float = .1, negatives: float = 0.,
        weight: str = 'sigma2') -> Estimator:
  """`guidance` and `t_min` (the least t of the step's draws) are schedules of the step; the second
  term is conditional only. `negatives` scales the weights of Perp-Neg (ScaleDreamer: .5), which
  costs two rows more; 0 is plain guidance. `weight` names w of estimators/weights.py, taken at
  t."""
  def residual(draws, est, prior, z, views, step):
    reach = jnp.minimum(eta * (draws.t - t_min(step)), LAST - draws.t)
    later = draws.t + shared(jax.vmap(jax.random.uniform)(draws.key),
                             prior.views_per_scene) * jnp.maximum(reach, 0.)
    z_t, z_later = (diffuse(z, t, draws.eps, schedule=prior.schedule) for t in (draws.t, later))
    eps_s, eps_later = guided(prior, z_t, draws.t, views, scale=guidance(step), negatives=negatives,
                              later=[(z_later, later)])
    return eps_s - eps_later, {}
  return Estimator(residual, weight=named(weight))
