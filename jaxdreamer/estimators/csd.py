"""Classifier score distillation (Yu et al. 2023): only the guidance term of SDS is kept.

w(t) r = w(t) (eps_y + (negative - 1) eps_null - negative eps_neg), the paper's released form with
omega_1 = 1. There is no guidance scale: it would only rescale r, which Adam undoes. SDS is (scale -
1) times this one plus (eps_y - eps). The released code also divides w(t) r by its norm, which Adam
does not undo: it sets what the regularizers weigh.
"""
from typing import Callable

import jax.numpy as jnp

from jaxdreamer.diffusion import diffuse, perp_neg, predictions, sides
from jaxdreamer.estimators.weights import named
from jaxdreamer.types import Estimator

TINY = 1e-8


def csd(*, negative: Callable | None = None, negatives: float = 0., weight: str = 'sigma2',
        normalize: bool = False) -> Estimator:
  """`negative` is a schedule of the step for omega_2, the share that the negative prompt takes over
  from the empty one; None leaves its row out of the batch. `negatives` scales the weights of
  Perp-Neg, 0 leaves its rows out; what it leads away from is seen from the negative prompt where
  there is one, else from the empty one. `weight` names w of estimators/weights.py.
  `normalize` divides each draw's residual by its L2 norm."""
  def residual(draws, est, prior, z, views, step):
    z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
    text, others, away = sides(views, negatives)
    texts = [text, views.null, *others, *([views.negative] if negative else [])]
    eps_y, eps_null, *rest = predictions(prior, [(z_t, draws.t, text) for text in texts],
                                         views.camera)
    others, rest = rest[:len(others)], rest[len(others):]
    eps_y = perp_neg(eps_y, rest[0] if negative else eps_null, others, away, 1.)
    share = negative(step) if negative else 0.
    r = eps_y + (share - 1.) * eps_null - sum(share * eps_neg for eps_neg in rest)
    return (r / (jnp.sqrt(jnp.sum(r ** 2, tuple(range(1, r.ndim)), keepdims=True)) + TINY)
            if normalize else r), {}
  # a norm leaves nothing of w(t)
  return Estimator(residual, weight=named('uniform' if normalize else weight))
