"""Classifier score distillation (Yu et al. 2023): only the guidance term of SDS is kept.

r = eps_y + (omega_2 - 1) eps_null - omega_2 eps_neg, the paper's released form with omega_1 = 1.
There is no guidance scale: it would only rescale r, which Adam undoes. SDS is (scale - 1) times
this one plus (eps_y - eps). The released code also divides r by its norm, which Adam does not undo:
it sets what the regularizers weigh.
"""
import jax.numpy as jnp

from jaxdreamer.diffusion import diffuse, perp_neg, predictions
from jaxdreamer.schedules import Schedule, at, is_never
from jaxdreamer.types import Estimator

TINY = 1e-8


def csd(*, omega2: Schedule = (0.,), normalize: bool = False) -> Estimator:
  """What Perp-Neg leads away from is seen from the negative prompt where there is one, else from
  the empty one.

  Args:
    omega2: share that the negative prompt takes over from the empty one, a schedule; 0 leaves its
      row out of the batch.
    normalize: True divides each draw's residual by its L2 norm, which leaves nothing of w(t) and
      sets what regularizers weigh.
  """
  leads_away = not is_never(omega2)

  def residual(draws, est, prior, z, views, step):
    z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
    others = views.perp_neg.texts
    texts = [views.text, views.null, *others, *([views.negative] if leads_away else [])]
    eps_y, eps_null, *rest = predictions(prior, [(z_t, draws.t, text) for text in texts],
                                         views.camera)
    others, rest = rest[:len(others)], rest[len(others):]
    eps_y = perp_neg(eps_y, rest[0] if leads_away else eps_null, others, views.perp_neg.weights, 1.)
    share = at(omega2, step)
    r = eps_y + (share - 1.) * eps_null - sum(share * eps_neg for eps_neg in rest)
    return (r / (jnp.sqrt(jnp.sum(r ** 2, tuple(range(1, r.ndim)), keepdims=True)) + TINY)
            if normalize else r), {}
  return Estimator(residual, weight='uniform' if normalize else None)
