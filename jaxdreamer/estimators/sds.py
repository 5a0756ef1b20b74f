"""Score distillation sampling (DreamFusion, Poole et al. 2022, Eq. 3)."""
from jaxdreamer.diffusion import diffuse, guided
from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Estimator


def sds(*, guidance: Schedule = (3.,)) -> Estimator:
  """r = eps_hat(z_t; t, y) - eps.

  Args:
    guidance: scale, a schedule of the step; 1 is conditional, DreamFusion's omega and threestudio's
      number are one less.
  """
  def residual(draws, est, prior, z, views, step):
    z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
    eps_hat = guided(prior, z_t, draws.t, views, scale=at(guidance, step))
    return eps_hat - draws.eps, {}     # DreamFusion Eq. 3, without w and the Jacobian
  return Estimator(residual)
