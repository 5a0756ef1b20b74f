"""phi = Pearson correlation of the depth that an estimator sees in the noisy image with the depth that the scene rendered
(SteinDreamer, Sec. 4.2). Through decode, so that phi is a function of the very z_t whose noise is used."""
import jax.numpy as jnp

from jaxdreamer.toybox import geometry
from jaxdreamer.types import Prior


def depth(prior: Prior, weights):
  """(z_t [h, w, c], t [], view) -> phi in [-1, 1], over the rendered object; `weights` as geometry.shipped() gives them."""
  def phi(z_t, t, view):
    seen, _ = geometry.geometry(weights, prior.decode(z_t[None]))
    near = view.shown.opacity / jnp.maximum(view.shown.depth, 1e-3)
    return geometry.pearson(seen[0].ravel(), near.ravel(), view.shown.opacity.ravel())
  return phi
