"""Stein score distillation (SteinDreamer, Wang et al. 2023): control variates from any function phi
of the noisy image.

Stein's identity (Stein 1981; Gorham & Mackey 2015) for z_t = alpha z + sigma eps:

    h = eps phi(z_t) - sigma grad phi(z_t),   E[h | z, t, camera] = 0,   r = eps_hat - sum_k mu_k
    h_k

has the mean of the raw score eps_hat whatever phi and mu are, as long as mu does not see the draw
that it weights: it is what earlier steps have learned. phi = 1 and mu = 1 is SDS, mu = 0 the raw
score. Three ways to learn mu, of the paper's and ours:
`learned` descends the second moment |w r|^2, whose mean differs from the variance by what no mu can
change; `moments` keeps running means of G_kl = <h_k, h_l> and b_k = <eps_hat, h_k> and solves G mu
= b; `parameters` does so with the inner products that count, those of w J^T h_k and w J^T eps_hat,
pulled back to the scene's parameters every few steps, for one view. Parameters see low frequencies,
of which a network that knows the picture makes less noise than there is: mu falls far below 1 there
at small t.

The paper prints eps phi + grad phi. Under its own z_t that is not zero-mean: it adds the force mu
(1 + sigma) E[grad phi], a hidden regularizer. `form='printed'` is that, for ablation alone.
"""
from functools import partial
from typing import Callable

import jax.numpy as jnp

from jaxdreamer.control_variates.stein import FORMS, variate
from jaxdreamer.control_variates.table import control_variates
from jaxdreamer.diffusion import bcast, diffuse, guided
from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Estimator, Probe

MUS = 'learned', 'moments', 'parameters'
RIDGE = 1e-6                     # times the trace of G: phi may be constant, or two of them alike
NODES = 5                        # of mu in t, linear between them
MEMORY = .2                      # of a group's rate: a probe is one view, and noisy
PRIOR = .01  # SDS's mu counts as this share of all probes, and early on as about one of them


def bins_of(t, bins):
  """The time bin [N] of each t in [0, 1]."""
  return jnp.minimum((t * bins).astype(jnp.int32), bins - 1)


def hats(t):
  """How much of mu at t [N] each node holds: [N, NODES], rows that sum to 1."""
  nodes = jnp.arange(NODES, dtype=jnp.float32)[None]
  return jnp.maximum(1. - jnp.abs(t[:, None] * (NODES - 1) - nodes), 0.)


def ssd(*, guidance: Schedule = (3.,), phi: tuple[str | Callable, ...] = ('constant',),
        mu: str = 'parameters', every: int = 10, bins: int = 10, per: tuple[str, ...] = (),
        form: str = 'stein', depth: str = '', normals: str = '', size: int = 224) -> Estimator:
  """mu is a number for each phi: of 'parameters' one for each of NODES times, else one a time bin,
  or with 'learned' more. It starts at 1 for the first phi and 0 for the others: with a constant
  first, at SDS.

  Args:
    guidance: scale, a schedule; 1 is conditional.
    phi: names of control_variates/table.py, or functions (prior, z_t [h, w, c], t [], view) -> [],
      or -> [h, w, c] where no entry sees its own place (control_variates/neighbors.py);
      view.rendering is what the scene rendered there, held fixed.
    mu: how it is learned: 'learned', 'moments' or 'parameters'.
    every: steps from probe to probe, of mu='parameters'.
    bins: of t, of mu='learned' and 'moments'.
    per: axes of the latent, 'h', 'w', 'c', that mu='learned' varies along.
    form: 'stein', or 'printed' as in the paper, for ablation.
    depth, normals: a published estimator's weights; '' is the toybox's.
    size: pixels that these estimators see.

  ValueError for an unknown phi, mu, form or axis, for per with a mu of scalars, and for `every`
  below 1.
  """
  phi, load = control_variates(phi, depth=depth, normals=normals, size=size)
  if mu not in MUS or form not in FORMS or not set(per) <= {'h', 'w', 'c'}:
    raise ValueError(f'ssd: mu={mu!r} takes one of {MUS}, form={form!r} one of {sorted(FORMS)}, '
                     f'per={per} of h, w, c')
  if per and mu != 'learned':
    raise ValueError(f"ssd: mu={mu!r} is one number a time; per={per} needs mu='learned'")
  if every < 1:
    raise ValueError(f'ssd: every={every}: takes a positive number of steps')
  k = len(phi)

  def init(key, prior):
    first = jnp.zeros((bins, k)).at[:, 0].set(1.)
    if mu == 'learned':
      grid = tuple(n if axis in per else 1 for n, axis in zip(prior.latent, 'hwc'))
      return {'mu': jnp.broadcast_to(first[..., None, None, None], (bins, k, *grid))}
    if mu == 'parameters':
      return {'moments': {'G': jnp.zeros((k * NODES, k * NODES)), 'b': jnp.zeros(k * NODES),
                          'seen': jnp.zeros(())}}
    return {'moments': {'G': jnp.broadcast_to(jnp.eye(k), (bins, k, k)), 'b': first}}

  def at_nodes(G, b, seen):
    """mu of each phi at each node [K, NODES]: G mu = b with a ridge that draws to SDS, and is all
    there is before a probe."""
    power = jnp.repeat(jnp.diagonal(G).reshape(k, NODES).sum(1), NODES)
    ridge = jnp.where(power > 0., PRIOR * power / jnp.maximum(seen, 1e-6), 1.)
    first = (jnp.arange(k * NODES) < NODES).astype(b.dtype)
    return jnp.linalg.solve(G + jnp.diag(ridge), b + ridge * first).reshape(k, NODES)

  def weights_of(est, t):
    """mu of each draw [N, K, h or 1, w or 1, c or 1]."""
    if mu == 'learned':
      return est['mu'][bins_of(t, bins)]
    if mu == 'parameters':
      return (hats(t) @ at_nodes(**est['moments']).T).reshape(len(t), k, 1, 1, 1)
    G, b = (est['moments'][name][bins_of(t, bins)] for name in ('G', 'b'))
    G = G + RIDGE * jnp.trace(G, axis1=1, axis2=2)[:, None, None] * jnp.eye(k)[None]
    return jnp.linalg.solve(G, b[..., None]).reshape(len(t), k, 1, 1, 1)

  def parts(draws, prior, z, views, step):
    """eps_hat [N h w c] and the variates h [N K h w c]."""
    z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
    eps_hat = guided(prior, z_t, draws.t, views, scale=at(guidance, step))
    sigma = prior.schedule.sigma(draws.t)
    return eps_hat, jnp.stack([variate(partial(f, prior), z_t, draws.t, draws.eps, sigma, views,
                                       form=form) for f in phi], 1)

  def corrected(draws, est, eps_hat, h):
    return eps_hat - jnp.sum(weights_of(est, draws.t) * h, 1)

  def residual(draws, est, prior, z, views, step):
    eps_hat, h = parts(draws, prior, z, views, step)
    return corrected(draws, est, eps_hat, h), {'mu': jnp.mean(weights_of(est, draws.t))}

  def loss(draws, est, prior, z, views, step):
    """|w r|^2, or half the squared distance to this draw's moments: a step of plain descent on it
    is a running mean."""
    if mu == 'parameters':
      return jnp.zeros(())
    eps_hat, h = parts(draws, prior, z, views, step)
    if mu == 'learned':
      return jnp.mean((bcast(draws.weight, eps_hat) * corrected(draws, est, eps_hat, h)) ** 2)
    inner = lambda a, b: jnp.mean(a * b, (-3, -2, -1))
    now = {'G': inner(h[:, :, None], h[:, None]), 'b': inner(eps_hat[:, None], h)}
    at_bins = bins_of(draws.t, bins)
    return .5 * sum(jnp.sum((est['moments'][name][at_bins] - now[name]) ** 2) for name in now)

  def vectors(draws, est, prior, z, views, step):
    eps_hat, h = parts(draws, prior, z, views, step)
    return jnp.concatenate([eps_hat[:, None], h], 1)

  def of_probe(products, draws, est):
    """The same distance to the moments of a probe, each draw's in units of its own sum of <h_k,
    h_k>: else a few draws, of views that show much at a time that weighs much, would decide
    alone."""
    power = jnp.trace(products[:, 1:, 1:], axis1=1, axis2=2)
    unit = jnp.where(power > 0., power, 1.)[:, None, None]
    psi, n = hats(draws.t), len(draws.t)
    now = {'G': jnp.einsum('nkl,ni,nj->kilj', products[:, 1:, 1:] / unit, psi,
                           psi).reshape(k * NODES, k * NODES) / n,
           'b': jnp.einsum('nk,ni->ki', products[:, 0, 1:] / unit[..., 0], psi).reshape(-1) / n,
           'seen': jnp.mean((power > 0.).astype(psi.dtype))}
    return .5 * MEMORY * sum(jnp.sum((est['moments'][name] - now[name]) ** 2) for name in now)

  probe = Probe(every, vectors, of_probe) if mu == 'parameters' else None
  return Estimator(residual, init, loss, probe, load=load)
