"""Asynchronous score distillation (ScaleDreamer, Ma et al. 2024): the prior itself, a little later,
is the second score.

r = eps_s(z_t; t, y) - eps_y(z_{t + dt}; t + dt, y), the same eps in both, dt ~ U[0, eta (t -
t_min)]. A frozen network's error falls with t, so the later prediction stands in for the fine-tuned
network of VSD, at the price of one row.
eta = 0 is CSD times (scale - 1); a second term of eps itself would be SDS.
"""
import jax
import jax.numpy as jnp

from jaxdreamer.diffusion import diffuse, guided_and
from jaxdreamer.sampling import shared
from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Estimator

LAST = .999                                      # t + dt ends here


def asd(*, guidance: Schedule = (3.,), eta: float = .1) -> Estimator:
  """The second term is conditional only.

  Args:
    guidance: scale of the first term, a schedule; 1 is conditional.
    eta: how much later the second term looks, at most, as a share of t - t_min.
  """
  def residual(draws, est, prior, z, views, step):
    reach = jnp.minimum(eta * (draws.t - draws.t_min), LAST - draws.t)
    later = draws.t + shared(jax.vmap(jax.random.uniform)(draws.key),
                             prior.views_per_scene) * jnp.maximum(reach, 0.)
    z_t, z_later = (diffuse(z, t, draws.eps, schedule=prior.schedule) for t in (draws.t, later))
    eps_s, eps_later = guided_and(prior, z_t, draws.t, views, [(z_later, later)],
                                  scale=at(guidance, step))
    return eps_s - eps_later, {}
  return Estimator(residual)
