"""Noise-free score distillation (Katzir et al. 2023), an estimator of one's own.

  python -m jaxdreamer.train --config=examples/nfsd.py --config.prompt='a red cube'

SDS subtracts the drawn noise because the prediction holds it. Noise-free score distillation writes
the unconditional prediction as noise plus a correction toward real images, and never subtracts
anything drawn: at small t the noise is small, so the prediction itself is the correction; at large
t a prediction for a prompt of bad images is taken from it, and the noise of both cancels.
"""
import jax.numpy as jnp

from jaxdreamer.configs import toybox
from jaxdreamer.diffusion import bcast, diffuse, predictions
from jaxdreamer.types import Estimator


def nfsd(*, scale=7.5, switch=.2):
  """r = scale (eps_y - eps_null) + correction, the correction being eps_null below t = `switch`
  and eps_null - eps_neg above it; eps_neg is told config.negative_prompt."""
  def residual(draws, own, prior, z, views, step):
    z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
    rows = [(z_t, draws.t, text) for text in (views.text, views.null, views.negative)]
    eps_y, eps_null, eps_neg = predictions(prior, rows, views.camera)
    noise = jnp.where(bcast(draws.t < switch, z), 0., eps_neg)
    return scale * (eps_y - eps_null) + eps_null - noise, {}
  return Estimator(residual, weight='sigma2')


def get_config():
  config = toybox.get_config()
  config.estimator.name = 'nfsd:nfsd'
  config.estimator.nfsd = {'scale': 7.5, 'switch': .2}
  return config
