"""The draws of a step, for any estimator: where in (t, camera) space each view stands, and its noise.

A design maps (key, view ids, number of views in the step, dimensions) to u in [0, 1). It sees *all* views of the step,
whatever device holds them: every device draws the same permutation and picks its own rows, so the numbers do not depend
on how many devices there are. Most of the variance of a score-distillation gradient comes from t and from the camera, and
a stratified design removes much of it at no cost and without bias.
"""
from typing import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdreamer.types import Draws


def by_view(key, ids):
  """One key a view."""
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def independent(key: Key[Array, ''], ids: Int[Array, 'V'], *, views: int, dims: int) -> Float[Array, 'V dims']:
  """u ~ U[0, 1), independent: SDS as published."""
  return jax.vmap(lambda k: jax.random.uniform(k, (dims,)))(by_view(key, ids))


def stratified(key: Key[Array, ''], ids: Int[Array, 'V'], *, views: int, dims: int) -> Float[Array, 'V dims']:
  """Latin hypercube (McKay et al. 1979): along every dimension each of `views` equal strata holds exactly one view."""
  k_cell, k_place = jax.random.split(key)
  cell = jax.vmap(lambda k: jax.random.permutation(k, views)[ids], out_axes=1)(jax.random.split(k_cell, dims))
  return (cell + independent(k_place, ids, views=views, dims=dims)) / views


DESIGNS = {'independent': independent, 'stratified': stratified}


def draws(key: Key[Array, ''], u: Float[Array, 'V'], ids: Int[Array, 'V'], *, t_min: Float[Array, ''] | float,
          t_max: Float[Array, ''] | float, shape: tuple[int, ...]) -> Draws:
  """One draw a view: t = t_min + u (t_max - t_min), eps ~ N(0, I) of latent `shape`, weight 1."""
  k_eps, k_more = jax.random.split(key)
  eps = jax.vmap(lambda k: jax.random.normal(k, shape))(by_view(k_eps, ids))
  return Draws(t=t_min + u * (t_max - t_min), eps=eps, weight=jnp.ones_like(u), key=by_view(k_more, ids))


def make_draw(*, t_min: Callable, t_max: Callable, shape: tuple[int, ...]) -> Callable:
  """(key, u, ids, step) -> Draws, with t's range given by two schedules of the step."""
  return lambda key, u, ids, step: draws(key, u, ids, t_min=t_min(step), t_max=t_max(step), shape=shape)
