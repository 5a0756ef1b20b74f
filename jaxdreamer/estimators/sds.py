"""Score distillation sampling (DreamFusion, Poole et al. 2022, Eq. 3)."""
from typing import Callable

from jaxdreamer.diffusion import diffuse, guided
from jaxdreamer.estimators.weights import named
from jaxdreamer.types import Estimator


def sds(*, guidance: Callable, negatives: float = 0., weight: str = 'sigma2') -> Estimator:
  """w(t) r = w(t) (eps_hat(z_t; t, y) - eps). `guidance` is a schedule of the step (scale 1:
  conditional; DreamFusion's omega is scale - 1); `negatives` scales the weights of Perp-Neg, 0 is
  plain guidance; `weight` names w of estimators/weights.py."""
  def residual(draws, est, prior, z, views, step):
    z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
    eps_hat, = guided(prior, z_t, draws.t, views, scale=guidance(step), negatives=negatives)
    return eps_hat - draws.eps, {}  # DreamFusion Eq. 3, without w and the Jacobian
  return Estimator(residual, weight=named(weight))
