"""Two ways to learn mu, how much of each control variate SSD takes away: estimators/ssd.py says
what each is for."""
from typing import Any, Callable, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxdreamer.diffusion import bcast
from jaxdreamer.types import Draws, Params

RIDGE = 1e-6                     # times the trace of G: phi may be constant, or two of them alike


class Way(NamedTuple):
  """How the mu of K variates is learned; `est` is what has been learned so far."""
  # latent's shape h w c -> est, which starts at SDS's mu
  init: Callable[[tuple[int, int, int]], Params]
  # (est, t [N]) -> mu [N, K, h or 1, w or 1, c or 1]
  weights: Callable[[Params, Array], Array]
  # (draws, est, eps_hat [N h w c], h [N K h w c]) -> []
  loss: Callable[[Draws, Params, Array, Array], Any]


def bins_of(t, bins):
  """The time bin [N] of each t in [0, 1]."""
  return jnp.minimum((t * bins).astype(jnp.int32), bins - 1)


def corrected(eps_hat, weights, h):
  """The raw score less its variates: [N h w c]."""
  return eps_hat - jnp.sum(weights * h, 1)


def first_of(bins, k):
  """SDS's mu in each time bin [bins, K]: 1 for the first phi, 0 for the others."""
  return jnp.zeros((bins, k)).at[:, 0].set(1.)


def learned(k: int, *, bins: int, per: tuple[str, ...]) -> Way:
  """By descent on |w r|^2, one mu a time bin and a place along the axes `per` of the latent."""
  def init(latent):
    grid = tuple(n if axis in per else 1 for n, axis in zip(latent, 'hwc'))
    return {'mu': jnp.broadcast_to(first_of(bins, k)[..., None, None, None], (bins, k, *grid))}

  def weights(est, t):
    return est['mu'][bins_of(t, bins)]

  def loss(draws, est, eps_hat, h):
    r = corrected(eps_hat, weights(est, draws.t), h)
    return jnp.mean((bcast(draws.weight, eps_hat) * r) ** 2)
  return Way(init, weights, loss)


def moments(k: int, *, bins: int) -> Way:
  """By running means of G_kl = <h_k, h_l> and b_k = <eps_hat, h_k> of each time bin: plain descent
  on half the squared distance to those of a step's draws, in which a draw alone in its bin counts
  as the group's rate over the draws."""
  def init(latent):
    return {'moments': {'G': jnp.broadcast_to(jnp.eye(k), (bins, k, k)), 'b': first_of(bins, k)}}

  def weights(est, t):
    G, b = (est['moments'][name][bins_of(t, bins)] for name in ('G', 'b'))
    G = G + RIDGE * jnp.trace(G, axis1=1, axis2=2)[:, None, None] * jnp.eye(k)[None]
    return jnp.linalg.solve(G, b[..., None]).reshape(len(t), k, 1, 1, 1)

  def loss(draws, est, eps_hat, h):
    inner = lambda a, b: jnp.mean(a * b, (-3, -2, -1))
    at_bins = bins_of(draws.t, bins)
    now = {'G': inner(h[:, :, None], h[:, None]), 'b': inner(eps_hat[:, None], h)}
    # a mean over draws, as all that devices share
    return .5 * sum(jnp.sum((est['moments'][name][at_bins] - m) ** 2) for name, m in now.items()
                    ) / len(draws.t)
  return Way(init, weights, loss)
