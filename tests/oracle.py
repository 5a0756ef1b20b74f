"""What tests of estimators ask by hand: draws at chosen times, views of texts that are one number,
and what the Gaussian prior answers to them."""
import jax
import jax.numpy as jnp

from jaxdreamer import train_step
from jaxdreamer.types import Draws, Views


def draws(t, *, shape=(1, 1, 1), weight=1., t_min=0.):
  """Draws at times t [n], of noise [n, *shape]; those of one shape are the same."""
  n = len(t)
  return Draws(t, jax.random.normal(jax.random.key(0), (n, *shape)), weight * jnp.ones(n),
               jax.random.split(jax.random.key(1), n), jnp.full(n, t_min))


def views(n, *, negative=0.):
  """n views without a camera, whose text is a one and whose empty prompt a zero."""
  one, zero = jnp.ones((n, 1, 1)), jnp.zeros((n, 1, 1))
  return Views(None, one, one, zero, zero + negative)


def residual(estimator, prior, drawn, z, est=(), *, negative=0.):
  """r [n, h, w, c] of n draws, weighed as a step weighs it, at latents z that are alike or [n, h,
  w, c]."""
  z = jnp.broadcast_to(z, drawn.eps.shape)
  return train_step.residual(estimator, drawn, est, prior, z, views(len(z), negative=negative),
                             0)[0]


def gain(prior, std, t):
  """(b, alpha, sigma) at t: eps_hat = b (z_t - alpha mean) is what a Gaussian prior of standard
  deviation std predicts."""
  alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
  return sigma / (alpha ** 2 * std ** 2 + sigma ** 2), alpha, sigma
