"""Variational score distillation (ProlificDreamer, Wang et al. 2023).

r = eps_s(z_t; y^c) - eps_phi(z_t; c, y), Eq. 9: phi is the prior with a LoRA, learning the score of
the scene's own renders by ordinary denoising, |eps_phi(z_t') - eps'|^2 at fresh (t', eps'), beside
the scene's step (Algorithm 1). The distance is taken in what the network itself predicts, as its
own training was: eps for Stable Diffusion, v or x0 for others, whose eps errors would leave nearly
all of the loss to the least t. It takes the prompt without view words, and the camera. A LoRA that
knew the score of one scene exactly would give SDS; one that knows nothing yet gives CSD times
(scale - 1), but for the view words.
"""
import jax
import jax.numpy as jnp

from jaxdreamer.diffusion import PREDICTIONS, bcast, diffuse, guided
from jaxdreamer.nn import lora
from jaxdreamer.sampling import shared
from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Estimator


def vsd(*, guidance: Schedule = (7.5,), rank: int = 4, dropped: float = .1) -> Estimator:
  """`est` is a LoRA of the prior's attention matrices, and a change of what cameras enter by.
  `init` raises ValueError where the prior has no such matrices.

  Args:
    guidance: scale of the first term, a schedule; 1 is conditional.
    rank: of the LoRA.
    dropped: share of the LoRA's training in which it does not know the camera.
  """
  def init(key, prior):
    if not lora.matching(prior.weights):
      raise ValueError("config.estimator.name='vsd': this prior has no attention matrices for a "
                       "LoRA; sds, csd and asd need none")
    return lora.init(key, prior.weights, rank=rank)

  def own(est, prior, z_t, t, views):
    adapted = (lora.beside if prior.branches else lora.merge)(prior.weights, est)
    return prior.replace(weights=adapted).eps(z_t, t, views.plain, views.camera)

  def residual(draws, est, prior, z, views, step):
    z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
    eps_s = guided(prior, z_t, draws.t, views, scale=at(guidance, step))
    return eps_s - own(est, prior, z_t, draws.t, views), {}

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

  return Estimator(residual, init, loss)
