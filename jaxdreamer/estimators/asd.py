"""Asynchronous score distillation (ScaleDreamer, Ma et al. 2024): the prior itself, a little later, is the second score.

r = w(t) (eps_s(z_t; t, y) - eps_y(z_{t + dt}; t + dt, y)), the same eps in both, dt ~ U[0, eta (t - t_min)]. A frozen
network's error falls with t, so the later prediction stands in for the fine-tuned network of VSD, at the price of one row.
eta = 0 is CSD times (scale - 1); a second term of eps itself would be SDS.
"""
from typing import Callable

import jax
import jax.numpy as jnp

from jaxdreamer.diffusion import bcast, diffuse, guide, predictions
from jaxdreamer.estimators.weights import WEIGHTS
from jaxdreamer.types import Estimator

LAST = .999                                      # t + dt ends here


def asd(*, guidance: Callable, t_min: Callable, eta: float = .1, weight: str = 'sigma2') -> Estimator:
  """`guidance` and `t_min` (the least t of the step's draws) are schedules of the step; the second term is conditional
  only. `weight` names w of estimators/weights.py, taken at t."""
  def residual(draws, est, prior, z, views, step):
    reach = jnp.minimum(eta * (draws.t - t_min(step)), LAST - draws.t)
    later = draws.t + jax.vmap(jax.random.uniform)(draws.key) * jnp.maximum(reach, 0.)
    z_t, z_later = (diffuse(z, t, draws.eps, schedule=prior.schedule) for t in (draws.t, later))
    eps_y, eps_null, eps_later = predictions(
      prior, [(z_t, draws.t, views.text), (z_t, draws.t, views.null), (z_later, later, views.text)], views.camera)
    w = draws.weight * WEIGHTS[weight](prior.schedule, draws.t)
    r = bcast(w, z) * (guide(eps_y, eps_null, guidance(step)) - eps_later)
    return r, {'residual_power': jnp.mean(r ** 2)}
  return Estimator(init=lambda key: (), residual=residual, loss=lambda *_: jnp.zeros(()))
