"""phi = Pearson correlation of the depth that an estimator sees in the noisy image with the depth
that the scene rendered (SteinDreamer, Sec. 4.2). Through decode, so that phi is a function of the
very z_t whose noise is used."""
from typing import Any, Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdreamer.toybox.geometry import pearson


def depth(*, estimate: Callable[[Any, Array], Array]):
  """(prior, z_t [h, w, c], t [], view) -> phi in [-1, 1], over the rendered object. `estimate`:
  (prior.weights['depth'], images [N, H, W, 3] in [0, 1]) -> disparity [N, h, w], in any affine
  units."""
  def phi(prior, z_t, t, view):
    near = view.rendering.opacity / jnp.maximum(view.rendering.depth, 1e-3)
    seen = jax.image.resize(estimate(prior.weights['depth'], prior.decode(z_t[None]))[0],
                            near.shape, 'linear')
    return pearson(seen.ravel(), near.ravel(), view.rendering.opacity.ravel())
  return phi
