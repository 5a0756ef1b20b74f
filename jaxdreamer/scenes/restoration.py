"""One-step restoration (OSEDiff, Wu et al. 2024): what is learned makes a good picture of a poor
one. A prior whose UNet and encoder carry LoRAs is asked once, at the last time, what the poor
picture's latent is a noisy version of:

    z_low = E(x_low)        eps = UNet(z_low, t = 1, text)
    z = (z_low - sigma eps) / alpha        x = D(z)

The scene's parameters are the LoRAs, and its "prompt" brings the pictures, `Text.pair`: a low and a
true one for each view, whatever the camera. Estimators see z, in place of a render that is encoded:
VSD asks of it what it asks of a render's latent. Beside it stand the mean squared error, of x in
[-1, 1], and the distance of what the toybox's reader sees, where the paper has LPIPS. In space
there is nothing.
"""
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxdreamer.conditioning import condition
from jaxdreamer.diffusion import bcast, x0_from_eps
from jaxdreamer.nn import lora
from jaxdreamer.scenes.image import picture
from jaxdreamer.toybox import geometry
from jaxdreamer.types import Prior, Scene

CONV_IN = 'unet/conv_in/'                        # trained whole, as there


def init(key: Key[Array, ''], weights: PyTree, *, rank: int) -> PyTree:
  """LoRAs of a prior's weights, or of their shapes, that change nothing yet."""
  low = lora.init(key, weights, rank=rank, matrices=f'{lora.UNET}|{lora.ENCODER}')
  whole = {path: {'change': jnp.zeros(x.shape)} for path, x in lora.flatten(weights).items()
           if path.startswith(CONV_IN)}
  return {path: w for path, w in low.items() if 'down' in w} | whole


def restored(prior: Prior, params: PyTree, low: Float[Array, 'V H W 3'],
             text: Float[Array, 'V L D'], *, keys: Key[Array, 'V'] | None = None
             ) -> tuple[Float[Array, 'V h w c'], Float[Array, 'V H W 3']]:
  """Pictures in [0, 1], of the prior's own size -> their latents and pictures; with `keys` of draws
  of the encoder's posterior, where the prior trains on such, else of its mean."""
  adapted = dataclasses.replace(prior, weights=lora.merge(prior.weights, params))
  z = adapted.encode(low) if keys is None else adapted.sample(keys, low)
  t = jnp.ones(len(z))
  eps = adapted.eps(z, t, text, None)
  z = x0_from_eps(eps, z, *(bcast(rate(t), z) for rate in (prior.schedule.alpha,
                                                           prior.schedule.sigma)))
  return z, jnp.clip(adapted.decode(z), 0., 1.)


def restoration(*, prior: Prior, rank: int = 4, mse: float = 1., feature: float = 2.,
                vsd: float = 1., path: str = '') -> Scene:
  """Of a `prior` that has an encoder and a UNet; its weights hold those of the 'reader' too, where
  `feature` is not 0.

  Args:
    rank: of the LoRAs.
    mse: weight of the mean squared error.
    feature: weight of the distance of the toybox reader's features.
    vsd: weight of the estimator, as of a mean over z; 0 leaves the other two.
    path: folder of pictures to learn from; '' is the toybox's renders.
  """
  def render_latents(params, prior, text, camera, keys, step):
    low, truth = text.pair[:, 0], text.pair[:, 1]

    def made(params):
      z, x = restored(prior, params, low, text.plain, keys=keys)
      cost = mse * 4. * jnp.mean((x - truth) ** 2)
      if feature:
        cost = cost + feature * jnp.mean(geometry.feature_distance(prior.weights, x, truth))
      return (z, cost), x
    (z, cost), pullback, x = jax.vjp(made, params, has_aux=True)
    views = condition(text, camera, words=None)._replace(
      camera=None, rendering=jax.vmap(picture)(jax.lax.stop_gradient(x)))
    # of mean (z - (z - r))^2, the inner z held fixed
    share = 2. * vsd / z[0].size
    return z, cost, views, lambda r, scale: pullback((share * r, scale))[0]

  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), prior.weights)
  return Scene(init=lambda key: init(key, shapes, rank=rank), prepare=lambda params, text: params,
               field=lambda code, xyz: (jnp.zeros(()), jnp.zeros(3)), latents=render_latents)
