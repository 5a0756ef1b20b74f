"""Variational score distillation (ProlificDreamer, Wang et al. 2023).

r = eps_s(z_t; y^c) - eps_phi(z_t; c, y), Eq. 9: phi is the prior with a LoRA, learning the score of
the scene's own renders by ordinary denoising, |eps_phi(z_t') - eps'|^2 at fresh (t', eps'), beside
the scene's step (Algorithm 1). The distance is taken in what the network itself predicts, as its
own training was: eps for Stable Diffusion, v or x0 for others, whose eps errors would leave nearly
all of the loss to the least t. It takes the prompt without view words, and the camera. A LoRA that
knew the score of one scene exactly would give SDS; one that knows nothing yet gives CSD times
(scale - 1), but for the view words.

`normalized` (DMD, Yin et al. 2024, Eq. 8; OSEDiff, Wu et al. 2024): the difference of the two
denoised latents over the mean absolute distance of z from the first of them, a draw by itself, so
that a step is as large at every t:

    r = (z0_phi - z0_s) / mean |z - z0_s| = sigma / alpha (eps_s - eps_phi) / mean |z - z0_s|
"""
import jax
import jax.numpy as jnp

from jaxdreamer.diffusion import PREDICTIONS, bcast, diffuse, guided, x0_from_eps
from jaxdreamer.nn import lora
from jaxdreamer.sampling import shared
from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Estimator

MATRICES = {'attention': lora.ATTENTION, 'all': lora.UNET}


def vsd(*, guidance: Schedule = (7.5,), rank: int = 4, dropped: float = .1,
        matrices: str = 'attention', normalized: bool = False) -> Estimator:
  """`est` is a LoRA of the prior's attention matrices, and a change of what cameras enter by.
  `init` raises ValueError where the prior has no such matrices.

  Args:
    guidance: scale of the first term, a schedule; 1 is conditional.
    rank: of the LoRA.
    dropped: share of the LoRA's training in which it does not know the camera.
    matrices: that the LoRA adapts: 'attention', or 'all', convolutions too, in float32 best.
    normalized: True: a step as large at every t, whatever config.sampling.weight is.
  """
  def init(key, prior):
    if not lora.matching(prior.weights, matrices=MATRICES[matrices]):
      raise ValueError("config.estimator.name='vsd': this prior has no attention matrices for a "
                       "LoRA; sds, csd and asd need none")
    return lora.init(key, prior.weights, rank=rank, matrices=MATRICES[matrices])

  def own(est, prior, z_t, t, views):
    branches = prior.branches and matrices == 'attention'
    adapted = (lora.beside if branches else lora.merge)(prior.weights, est)
    return prior.replace(weights=adapted).eps(z_t, t, views.plain, views.camera)

  def residual(draws, est, prior, z, views, step):
    z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
    eps_s = guided(prior, z_t, draws.t, views, scale=at(guidance, step))
    r = eps_s - own(est, prior, z_t, draws.t, views)
    if normalized:
      alpha, sigma = (bcast(rate(draws.t), z) for rate in (prior.schedule.alpha,
                                                           prior.schedule.sigma))
      away = jnp.abs(z - x0_from_eps(eps_s, z_t, alpha, sigma))
      r = sigma / alpha * r / jnp.mean(away, tuple(range(1, z.ndim)), keepdims=True)
    return r, {}

  def loss(draws, est, prior, z, views, step):
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(draws.key)
    t = shared(jax.vmap(jax.random.uniform)(keys[:, 0]), prior.views_per_scene)
    eps = jax.vmap(lambda key: jax.random.normal(key, z.shape[1:]))(keys[:, 1])
    if views.camera is not None:
      known = shared(jax.vmap(jax.random.uniform)(keys[:, 2]), prior.views_per_scene) >= dropped
      views = views._replace(camera=views.camera._replace(known=known))
    error = own(est, prior, diffuse(z, t, eps, schedule=prior.schedule), t, views) - eps
    unit = PREDICTIONS[prior.predicted].error(prior.schedule.alpha(t), prior.schedule.sigma(t))
    return jnp.mean((bcast(unit, z) * error) ** 2)

  return Estimator(residual, init, loss, weight='uniform' if normalized else None)
