"""phi = mean cosine between the normals that an estimator sees in the noisy image and those that the scene rendered
(SteinDreamer's variant by a normal estimator; its exact loss is not published: this one is our choice)."""
import jax.numpy as jnp

from jaxdreamer.toybox import geometry
from jaxdreamer.types import Prior


def normals(prior: Prior, weights):
  """(z_t [h, w, c], t [], view) -> phi in [-1, 1], over the rendered object; `weights` as geometry.shipped() gives them."""
  def phi(z_t, t, view):
    _, seen = geometry.geometry(weights, prior.decode(z_t[None]))
    rotation = view.camera.world_from_camera[:3, :3]
    rendered = view.shown.normal @ rotation                        # world -> camera; its length is the opacity
    return jnp.sum(seen[0] * rendered) / jnp.maximum(jnp.sum(view.shown.opacity), 1.)
  return phi
