"""Stein score distillation (SteinDreamer, Wang et al. 2023): control variates from any function phi
of the noisy image.

Stein's identity (Stein 1981; Gorham & Mackey 2015) for z_t = alpha z + sigma eps:

    h = eps phi(z_t) - sigma grad phi(z_t),   E[h | z, t, camera] = 0,   r = eps_hat - sum_k mu_k
    h_k

has the mean of the raw score eps_hat whatever phi and mu are, as long as mu does not see the draw
that it weights: it is what earlier steps have learned. phi = 1 and mu = 1 is SDS, mu = 0 the raw
score. Two ways to learn mu, of the paper's and ours:
`learned` descends the second moment |w r|^2, whose mean differs from the variance by what no mu can
change; `moments` keeps running means of G_kl = <h_k, h_l> and b_k = <eps_hat, h_k> and solves G mu
= b. What counts is the variance in the scene's parameters; yet to solve for mu there, from a view
pulled back now and then, was noisier than what it took away.

The paper prints eps phi + grad phi. Under its own z_t that is not zero-mean: it adds the force mu
(1 + sigma) E[grad phi], a hidden regularizer. `form='printed'` is that, for ablation alone.
"""
from functools import partial
from typing import Callable

import jax.numpy as jnp

from jaxdreamer.control_variates.mu import corrected, learned, moments
from jaxdreamer.control_variates.stein import FORMS, variate
from jaxdreamer.control_variates.table import control_variates
from jaxdreamer.diffusion import diffuse, guided
from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Estimator


def score_and_variates(draws, prior, z, views, step, *, phi, guidance, form):
  """eps_hat [N h w c] and the variate h [N K h w c] of each phi."""
  z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
  eps_hat = guided(prior, z_t, draws.t, views, scale=at(guidance, step))
  sigma = prior.schedule.sigma(draws.t)
  return eps_hat, jnp.stack([variate(partial(f, prior), z_t, draws.t, draws.eps, sigma, views,
                                     form=form) for f in phi], 1)


def ssd(*, guidance: Schedule = (3.,), phi: tuple[str | Callable, ...] = ('constant',),
        mu: str = 'moments', bins: int = 10, per: tuple[str, ...] = (),
        form: str = 'stein', depth: str = '', normals: str = '', size: int = 224) -> Estimator:
  """mu (control_variates/mu.py) is a number for each phi and time bin, or with 'learned' more. It
  starts at 1 for the first phi and 0 for the others: with a constant first, at SDS.

  Args:
    guidance: scale, a schedule; 1 is conditional.
    phi: names of control_variates/table.py, or functions (prior, z_t [h, w, c], t [], view) -> [],
      or -> [h, w, c] where no entry sees its own place (control_variates/neighbors.py);
      view.rendering is what the scene rendered there, held fixed.
    mu: how it is learned: 'learned' or 'moments'.
    bins: of t.
    per: axes of the latent, 'h', 'w', 'c', that mu='learned' varies along.
    form: 'stein', or 'printed' as in the paper, for ablation.
    depth, normals: a published estimator's weights; '' is the toybox's.
    size: pixels that these estimators see.

  ValueError for an unknown phi, mu, form or axis, and for per with a mu of scalars.
  """
  phi, load = control_variates(phi, depth=depth, normals=normals, size=size)
  ways = {'learned': partial(learned, bins=bins, per=per), 'moments': partial(moments, bins=bins)}
  if mu not in ways or form not in FORMS or not set(per) <= {'h', 'w', 'c'}:
    raise ValueError(f'ssd: mu={mu!r} takes one of {(*ways,)}, form={form!r} one of '
                     f'{sorted(FORMS)}, per={per} of h, w, c')
  if per and mu != 'learned':
    raise ValueError(f"ssd: mu={mu!r} is one number a time; per={per} needs mu='learned'")
  way = ways[mu](len(phi))
  parts = partial(score_and_variates, phi=phi, guidance=guidance, form=form)

  def residual(draws, est, prior, z, views, step):
    eps_hat, h = parts(draws, prior, z, views, step)
    weights = way.weights(est, draws.t)
    return corrected(eps_hat, weights, h), {'mu': jnp.mean(weights)}

  def loss(draws, est, *args):
    return way.loss(draws, est, *parts(draws, *args))

  return Estimator(residual, lambda key, prior: way.init(prior.latent), loss, load=load)
