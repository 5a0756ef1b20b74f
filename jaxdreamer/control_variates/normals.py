"""phi = mean cosine between the normals that an estimator sees in the noisy image and those that
the scene rendered (SteinDreamer's variant by a normal estimator; its exact loss is not published:
this one is our choice)."""
from typing import Any, Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array


def normals(*, estimate: Callable[[Any, Array], Array]):
  """(prior, z_t [h, w, c], t [], view) -> phi in [-1, 1], over the rendered object. `estimate`:
  (prior.weights['normals'], images [N, H, W, 3] in [0, 1]) -> unit normals [N, h, w, 3] of the
  camera's frame: x right, y up, z towards the camera."""
  def phi(prior, z_t, t, view):
    # world -> camera; its length is the opacity
    rendered = view.rendering.normal @ view.camera.world_from_camera[:3, :3]
    seen = jax.image.resize(estimate(prior.weights['normals'], prior.decode(z_t[None]))[0],
                            rendered.shape, 'linear')
    return jnp.sum(seen * rendered) / jnp.maximum(jnp.sum(view.rendering.opacity), 1.)
  return phi
