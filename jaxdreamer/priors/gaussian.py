"""The prior N(mean, std^2 I), whose prediction is known in closed form: the tests' oracle."""
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.diffusion import bcast, cosine
from jaxdreamer.types import NoiseSchedule, Prior, Text


def gaussian(mean: Float[Array, 'h w c'], *, std: float, null_mean: Float[Array, 'h w c']
             | None = None,
             schedule: NoiseSchedule | None = None) -> Prior:
  """eps_hat = sigma (z_t - alpha mean) / (alpha^2 std^2 + sigma^2). A text row of ones means
  `mean`, of zeros `null_mean` (the same by default), so that guidance has two different
  predictions. encode is the identity."""
  schedule = schedule or cosine()
  h, w, c = mean.shape
  weights = {'mean': mean, 'null_mean': mean if null_mean is None else null_mean}

  def eps(weights, z_t, t, text, camera):
    alpha, sigma = bcast(schedule.alpha(t), z_t), bcast(schedule.sigma(t), z_t)
    m = jnp.where(bcast(text[:, 0, 0], z_t) > .5, weights['mean'][None], weights['null_mean'][None])
    return sigma * (z_t - alpha * m) / (alpha ** 2 * std ** 2 + sigma ** 2)

  def embed(weights, prompt, negative=''):
    one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
    return Text(jnp.ones((4, 1, 1)), one, zero, zero)

  same = lambda weights, x: x
  return Prior(weights, schedule, h, (h, w, c), same, same, eps, embed)
