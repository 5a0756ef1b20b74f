"""Three ways to learn mu, how much of each control variate SSD takes away: estimators/ssd.py says
what each is for."""
from typing import Any, Callable, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxdreamer.diffusion import bcast
from jaxdreamer.types import Draws, Params

RIDGE = 1e-6                     # times the trace of G: phi may be constant, or two of them alike
NODES = 5                        # of mu in t, linear between them
MEMORY = .2                      # of a group's rate: a probe is one view, and noisy
PRIOR = .01  # SDS's mu counts as this share of all probes, and early on as about one of them


class Way(NamedTuple):
  """How the mu of K variates is learned; `est` is what has been learned so far."""
  # latent's shape h w c -> est, which starts at SDS's mu
  init: Callable[[tuple[int, int, int]], Params]
  # (est, t [N]) -> mu [N, K, h or 1, w or 1, c or 1]
  weights: Callable[[Params, Array], Array]
  # (draws, est, eps_hat [N h w c], h [N K h w c]) -> []
  loss: Callable[[Draws, Params, Array, Array], Any] | None = None
  # a Probe's: (inner products of eps_hat and h [N K+1 K+1], draws, est) -> []
  of_probe: Callable[[Array, Draws, Params], Any] | None = None


def bins_of(t, bins):
  """The time bin [N] of each t in [0, 1]."""
  return jnp.minimum((t * bins).astype(jnp.int32), bins - 1)


def hats(t):
  """How much of mu at t [N] each node holds: [N, NODES], rows that sum to 1."""
  nodes = jnp.arange(NODES, dtype=jnp.float32)[None]
  return jnp.maximum(1. - jnp.abs(t[:, None] * (NODES - 1) - nodes), 0.)


def corrected(eps_hat, weights, h):
  """The raw score less its variates: [N h w c]."""
  return eps_hat - jnp.sum(weights * h, 1)


def first_of(bins, k):
  """SDS's mu in each time bin [bins, K]: 1 for the first phi, 0 for the others."""
  return jnp.zeros((bins, k)).at[:, 0].set(1.)


def apart(kept, now):
  """Half the squared distance to the moments `now`: a step of plain descent on it is a running
  mean."""
  return .5 * sum(jnp.sum((kept[name] - now[name]) ** 2) for name in now)


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
  """By running means of G_kl = <h_k, h_l> and b_k = <eps_hat, h_k> of each time bin."""
  def init(latent):
    return {'moments': {'G': jnp.broadcast_to(jnp.eye(k), (bins, k, k)), 'b': first_of(bins, k)}}

  def weights(est, t):
    G, b = (est['moments'][name][bins_of(t, bins)] for name in ('G', 'b'))
    G = G + RIDGE * jnp.trace(G, axis1=1, axis2=2)[:, None, None] * jnp.eye(k)[None]
    return jnp.linalg.solve(G, b[..., None]).reshape(len(t), k, 1, 1, 1)

  def loss(draws, est, eps_hat, h):
    inner = lambda a, b: jnp.mean(a * b, (-3, -2, -1))
    at_bins = bins_of(draws.t, bins)
    return apart({name: m[at_bins] for name, m in est['moments'].items()},
                 {'G': inner(h[:, :, None], h[:, None]), 'b': inner(eps_hat[:, None], h)})
  return Way(init, weights, loss)


def parameters(k: int) -> Way:
  """By such moments of a probe, of mu at NODES times; each draw's in units of its own sum of
  <h_k, h_k>: else a few draws, of views that show much at a time that weighs much, would decide
  alone."""
  def init(latent):
    return {'moments': {'G': jnp.zeros((k * NODES, k * NODES)), 'b': jnp.zeros(k * NODES),
                        'seen': jnp.zeros(())}}

  def at_nodes(G, b, seen):
    """mu of each phi at each node [K, NODES]: G mu = b with a ridge that draws to SDS, and is all
    there is before a probe."""
    power = jnp.repeat(jnp.diagonal(G).reshape(k, NODES).sum(1), NODES)
    ridge = jnp.where(power > 0., PRIOR * power / jnp.maximum(seen, 1e-6), 1.)
    first = (jnp.arange(k * NODES) < NODES).astype(b.dtype)
    return jnp.linalg.solve(G + jnp.diag(ridge), b + ridge * first).reshape(k, NODES)

  def weights(est, t):
    return (hats(t) @ at_nodes(**est['moments']).T).reshape(len(t), k, 1, 1, 1)

  def of_probe(products, draws, est):
    power = jnp.trace(products[:, 1:, 1:], axis1=1, axis2=2)
    unit = jnp.where(power > 0., power, 1.)[:, None, None]
    psi, n = hats(draws.t), len(draws.t)
    now = {'G': jnp.einsum('nkl,ni,nj->kilj', products[:, 1:, 1:] / unit, psi,
                           psi).reshape(k * NODES, k * NODES) / n,
           'b': jnp.einsum('nk,ni->ki', products[:, 0, 1:] / unit[..., 0], psi).reshape(-1) / n,
           'seen': jnp.mean((power > 0.).astype(psi.dtype))}
    return MEMORY * apart(est['moments'], now)
  return Way(init, weights, of_probe=of_probe)
