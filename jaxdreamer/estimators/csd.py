"""Classifier score distillation (Yu et al. 2023): only the guidance term of SDS is kept.

w(t) r = w(t) (eps_y + (negative - 1) eps_null - negative eps_neg), the paper's released form with omega_1 = 1. There is no
guidance scale: it would only rescale r, which Adam undoes. SDS is (scale - 1) times this one plus (eps_y - eps).
"""
from typing import Callable

from jaxdreamer.diffusion import diffuse, perp_neg, predictions, sides
from jaxdreamer.estimators.weights import named
from jaxdreamer.types import Estimator


def csd(*, negative: Callable | None = None, negatives: float = 0., weight: str = 'sigma2') -> Estimator:
  """`negative` is a schedule of the step for omega_2, the share that the negative prompt takes over from the empty one;
  None leaves its row out of the batch. `negatives` scales the weights of Perp-Neg, 0 leaves its rows out. `weight` names w of
  estimators/weights.py."""
  def residual(draws, est, prior, z, views, step):
    z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
    text, others, away = sides(views, negatives)
    texts = [text, views.null, *others, *([views.negative] if negative else [])]
    eps_y, eps_null, *rest = predictions(prior, [(z_t, draws.t, text) for text in texts], views.camera)
    eps_y, rest = perp_neg(eps_y, eps_null, rest[:len(others)], away, 1.), rest[len(others):]
    share = negative(step) if negative else 0.
    return eps_y + (share - 1.) * eps_null - sum(share * eps_neg for eps_neg in rest), {}
  return Estimator(residual, weight=named(weight))
