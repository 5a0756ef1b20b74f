"""Stein score distillation (SteinDreamer, Wang et al. 2023): control variates from any function phi of the noisy image.

Stein's identity (Stein 1981; Gorham & Mackey 2015) for z_t = alpha z + sigma eps:

    h = eps phi(z_t) - sigma grad phi(z_t),   E[h | z, t, camera] = 0,   r = w(t) (eps_hat - sum_k mu_k h_k)

has the mean of the raw score eps_hat whatever phi and mu are, as long as mu does not see the draw that it weights: it is
what earlier steps have learnt. phi = 1 and mu = 1 is SDS, mu = 0 the raw score. Two ways to learn mu, of the paper's and ours:
`learnt` descends the second moment |r|^2, whose mean differs from the variance by what no mu can change; `moments` keeps
running means of G_kl = <h_k, h_l> and b_k = <eps_hat, h_k> and solves G mu = b.

The paper prints eps phi + grad phi. Under its own z_t that is not zero-mean: it adds the force mu (1 + sigma) E[grad phi], a
hidden regularizer. `form='printed'` is that, for ablation alone.
"""
from functools import partial
from typing import Callable

import jax
import jax.numpy as jnp

from jaxdreamer.diffusion import bcast, diffuse, guided
from jaxdreamer.estimators.weights import WEIGHTS
from jaxdreamer.types import Estimator

FORMS = {'stein': lambda sigma, eps, phi, slope: eps * phi - sigma * slope,
         'printed': lambda sigma, eps, phi, slope: eps * phi + slope}
RIDGE = 1e-6                     # times the trace of G: phi may be constant, or two of them alike


def bins_of(t, bins):
  """The time bin [N] of each t in [0, 1]."""
  return jnp.minimum((t * bins).astype(jnp.int32), bins - 1)


def variate(phi: Callable, z_t, t, eps, sigma, views, *, form: str = 'stein'):
  """h [N, h, w, c] of one phi for N draws; `sigma` is [N]. A phi that returns [h, w, c] must not see z_t[i] in its entry i."""
  if jax.eval_shape(jax.vmap(phi), z_t, t, views).ndim > 1:
    return eps * jax.vmap(phi)(z_t, t, views)
  value, slope = jax.vmap(jax.value_and_grad(phi))(z_t, t, views)
  return FORMS[form](bcast(sigma, eps), eps, bcast(value, eps), slope)


def ssd(*, guidance: Callable, phi: tuple[Callable, ...], shape: tuple[int, int, int], mu: str = 'learnt', bins: int = 10,
        per: tuple[str, ...] = (), form: str = 'stein', negatives: float = 0., weight: str = 'sigma2') -> Estimator:
  """`phi`: each (prior, z_t [h, w, c], t [], view) -> [], or -> [h, w, c] where no entry sees its own place
  (baselines/neighbours.py); view.shown is what the scene rendered there, held fixed.

  mu is one number a time bin of `bins` and a phi, or more: `per` names the axes of the latent `shape` ('h', 'w', 'c') that it
  also varies along. It starts at 1 for the first phi and 0 for the others: with a constant first, at SDS.
  `negatives` scales the weights of Perp-Neg. ValueError for an unknown mu, form or axis, and for per with 'moments', which
  solves for scalars.
  """
  if mu not in ('learnt', 'moments') or form not in FORMS or not set(per) <= {'h', 'w', 'c'}:
    raise ValueError(f"ssd: mu={mu!r} takes 'learnt' or 'moments', form={form!r} one of {sorted(FORMS)}, per={per} of h, w, c")
  if per and mu == 'moments':
    raise ValueError(f"ssd: mu='moments' is one number a time bin; per={per} needs mu='learnt'")
  k, grid = len(phi), tuple(n if axis in per else 1 for n, axis in zip(shape, 'hwc'))

  def init(key):
    first = jnp.zeros((bins, k)).at[:, 0].set(1.)
    if mu == 'learnt':
      return {'mu': jnp.broadcast_to(first[..., None, None, None], (bins, k, *grid))}
    return {'moments': {'G': jnp.broadcast_to(jnp.eye(k), (bins, k, k)), 'b': first}}

  def weights_of(est, t):
    """mu of each draw [N, K, h or 1, w or 1, c or 1]."""
    if mu == 'learnt':
      return est['mu'][bins_of(t, bins)]
    G, b = (est['moments'][name][bins_of(t, bins)] for name in ('G', 'b'))
    G = G + RIDGE * jnp.trace(G, axis1=1, axis2=2)[:, None, None] * jnp.eye(k)[None]
    return jnp.linalg.solve(G, b[..., None]).reshape(len(t), k, 1, 1, 1)

  def parts(draws, prior, z, views, step):
    """eps_hat [N h w c] and the variates h [N K h w c]."""
    z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
    eps_hat, = guided(prior, z_t, draws.t, views, scale=guidance(step), negatives=negatives)
    sigma = prior.schedule.sigma(draws.t)
    return eps_hat, jnp.stack([variate(partial(f, prior), z_t, draws.t, draws.eps, sigma, views, form=form) for f in phi], 1)

  def corrected(draws, est, prior, eps_hat, h):
    w = draws.weight * WEIGHTS[weight](prior.schedule, draws.t)
    return bcast(w, eps_hat) * (eps_hat - jnp.sum(weights_of(est, draws.t) * h, 1))

  def residual(draws, est, prior, z, views, step):
    r = corrected(draws, est, prior, *parts(draws, prior, z, views, step))
    return r, {'residual_power': jnp.mean(r ** 2), 'mu': jnp.mean(weights_of(est, draws.t))}

  def loss(draws, est, prior, z, views, step):
    """|r|^2, or half the squared distance to this draw's moments: a step of plain descent on it is a running mean."""
    eps_hat, h = parts(draws, prior, z, views, step)
    if mu == 'learnt':
      return jnp.mean(corrected(draws, est, prior, eps_hat, h) ** 2)
    inner = lambda a, b: jnp.mean(a * b, (-3, -2, -1))
    now = {'G': inner(h[:, :, None], h[:, None]), 'b': inner(eps_hat[:, None], h)}
    kept = jax.tree.map(lambda m: m[bins_of(draws.t, bins)], est['moments'])
    return .5 * sum(jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(now)))

  return Estimator(init, residual, loss)
