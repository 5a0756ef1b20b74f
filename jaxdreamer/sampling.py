"""What a step draws, for any estimator: where in (t, camera) space each view stands, its noise, and
what its residual is weighed by.

A design maps (key, view ids, number of views in the step, dimensions) to u in [0, 1). It sees *all*
views of the step, whatever device holds them: every device draws the same permutation and picks its
own rows, so the numbers do not depend on how many devices there are. Most of the variance of a
score-distillation gradient comes from t and from the camera, and a stratified design removes much
of it at no cost and without bias. Several draws for one render share its cost, and the pullback's:
it is linear, so their residuals are averaged before it (CARV, Bettencourt et al. 2026).
"""
import math
from functools import partial
from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Camera, Draws, Move, NoiseSchedule, Sample

BINS = 8                         # of t, for the power that importance sampling wants
MOVE = 102                               # what a step's key is folded with to move cameras
# w(t), the weight of a residual at time t: each (noise schedule, t [N]) -> [N]
WEIGHTS = {
  'sigma2': lambda noise, t: noise.sigma(t) ** 2,                             # DreamFusion
  'uniform': lambda noise, t: jnp.ones_like(t),
  'alpha_sigma2': lambda noise, t: noise.alpha(t) * noise.sigma(t) ** 2,      # Fantasia3D
}


def by_view(key, ids):
  """One key a view: jax.random.fold_in(key, i) of each i."""
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def independent(key: Key[Array, ''], ids: Int[Array, 'V'], *, views: int,
                dims: int) -> Float[Array, 'V dims']:
  """u ~ U[0, 1), independent: SDS as published."""
  return jax.vmap(lambda k: jax.random.uniform(k, (dims,)))(by_view(key, ids))


def stratified(key: Key[Array, ''], ids: Int[Array, 'V'], *, views: int,
               dims: int) -> Float[Array, 'V dims']:
  """Latin hypercube (McKay et al. 1979): along every dimension each of `views` equal strata holds
  exactly one view."""
  k_cell, k_place = jax.random.split(key)
  cell = jax.vmap(lambda k: jax.random.permutation(k, views)[ids],
                  out_axes=1)(jax.random.split(k_cell, dims))
  return (cell + independent(k_place, ids, views=views, dims=dims)) / views


def lattice(key: Key[Array, ''], ids: Int[Array, 'V'], *, views: int,
            dims: int) -> Float[Array, 'V dims']:
  """Rank-1 lattice (Korobov 1959), its generators and its shift drawn anew each step: along every
  dimension the views stand at exactly equal distances, and pairs of dimensions are spread as well
  where there are views enough."""
  units = jnp.asarray([g for g in range(1, views + 1) if math.gcd(g, views) == 1])
  k_generator, k_shift = jax.random.split(key)
  generator = units[jax.random.randint(k_generator, (dims,), 0, len(units))]
  return (ids[:, None] * generator[None] / views + jax.random.uniform(k_shift, (1, dims))) % 1.


def rings(key: Key[Array, ''], ids: Int[Array, 'V'], *, views: int,
          dims: int) -> Float[Array, 'V dims']:
  """Each RING successive views are one scene: they share all dimensions (elevation, distance, fov,
  t) but the first, the azimuth, where they stand at equal distances. The rings of a step are
  stratified, their azimuths within one such distance.
  Views of a ring must be on one device."""
  k_rings, k_turn = jax.random.split(key)
  u = stratified(k_rings, ids // RING, views=views // RING, dims=dims)
  return u.at[:, 0].set((u[:, 0] + ids + jax.random.randint(k_turn, (), 0, RING)) / RING % 1.)


RING = 4                                 # views
DESIGNS = {'independent': independent, 'stratified': stratified, 'lattice': lattice, 'rings': rings}


def shared(v: Float[Array, 'V'], n: int) -> Float[Array, 'V']:
  """What each view drew, but the n successive views of a scene all take what the first of them
  drew."""
  return jnp.repeat(v[::n], n)


def inverse_cdf(u: Float[Array, '*n'], density: tuple[float, ...]) -> tuple[Float[Array, '*n'],
                                                                            Float[Array, '*n']]:
  """u ~ U[0, 1) -> a number in [0, 1) of the histogram `density` (equal bins, any scale), and its
  weight p / q against the uniform density. Monotonic: what is stratified in u is so in the
  result."""
  q = jnp.asarray(density) / sum(density)                # mass of each bin
  edges = jnp.concatenate([jnp.zeros(1), jnp.cumsum(q)[:-1], jnp.ones(1)])
  b = jnp.clip(jnp.searchsorted(edges, u, side='right') - 1, 0, len(density) - 1)
  return (b + jnp.clip((u - edges[b]) / q[b], 0., 1.)) / len(density), 1. / (len(density) * q[b])


def best_density(t: Float[np.ndarray, 'N'], power: Float[np.ndarray, 'N'], *, t_min: float,
                 t_max: float) -> list[float]:
  """The histogram of t that importance sampling wants: the root mean power of a gradient in each of
  BINS bins (Kahn & Marshall 1953), of mean 1, and nowhere below a fifth of it, so that no weight
  explodes."""
  which = np.clip(((t - t_min) / (t_max - t_min) * BINS).astype(int), 0, BINS - 1)
  root = np.array([np.sqrt(power[which == b].mean()) if (which == b).any() else 0.
                   for b in range(BINS)])
  q = np.maximum(root / root.mean(), .2)
  return [round(float(v), 3) for v in q / q.mean()]


def draws(key: Key[Array, ''], u: Float[Array, 'V M'], ids: Int[Array, 'V'], *,
          t_min: Float[Array, ''] | float, t_max: Float[Array, ''] | float,
          shape: tuple[int, ...], w: Callable[[Array], Array] = jnp.ones_like,
          density: tuple[float, ...] = (1.,), antithetic: bool = False) -> Draws:
  """The N = V M draws of a step, those of one view side by side; N = 2 V M when `antithetic`: then
  each (t, eps) is followed by (t, -eps).

  t = t_min + v (t_max - t_min) with v of the histogram `density`: draw j of a view takes u from the
  j-th of M strata.
  eps ~ N(0, I) of latent `shape`; `weight` is `w` (t [N]) -> [N] times what keeps the mean that of
  a uniform density.
  """
  k_eps, k_more = jax.random.split(key)
  each = u.shape[1]
  place, weight = inverse_cdf((jnp.arange(each)[None] + u) / each, density)
  eps = jax.vmap(lambda k: jax.random.normal(k, (each, *shape)))(by_view(k_eps, ids))
  flat = lambda a: a.reshape(-1, *a.shape[2:])
  if antithetic:
    place, weight = (jnp.repeat(a, 2, 1) for a in (place, weight))
    eps = flat(jnp.stack([eps, -eps], 2)).reshape(len(ids), 2 * each, *shape)
  more = by_view(k_more, ids)
  if place.shape[1] > 1:
    more = flat(jax.vmap(lambda k: jax.random.split(k, place.shape[1]))(more))
  t = t_min + flat(place) * (t_max - t_min)
  return Draws(t=t, eps=flat(eps), weight=flat(weight) * w(t), key=more,
               t_min=jnp.full_like(t, t_min))


def make_draw(*, noise: NoiseSchedule, shape: tuple[int, ...], t_min: Schedule = (.02,),
              t_max: Schedule = (.98,), weight: str = 'sigma2', density: tuple[float, ...] = (1.,),
              antithetic: bool = False) -> Callable[..., Draws]:
  """(key, u, ids, step) -> Draws, of latents of this `shape`.

  Args:
    t_min, t_max: range of t, schedules of the step.
    weight: w(t), one of WEIGHTS; an estimator may ask for another.
    density: histogram of t between t_min and t_max; the mean stays a uniform one's.
    antithetic: True: every second draw is the one before with -eps.

  ValueError for a weight that is not there.
  """
  if weight not in WEIGHTS:
    raise ValueError(f'config.sampling.weight={weight!r}: takes one of {sorted(WEIGHTS)}')
  return lambda key, u, ids, step: draws(key, u, ids, t_min=at(t_min, step), t_max=at(t_max, step),
                                         shape=shape, w=partial(WEIGHTS[weight], noise),
                                         density=density, antithetic=antithetic)


def make_views(*, design: Callable[..., Array], camera_from: Callable[[Array], Camera], views: int,
               dims: int = 1, move: Move | None = None) -> Callable[..., tuple[Camera, Array]]:
  """(key, ids [local views], step) -> (camera [V], u [V, dims] of their draws).

  `design` spreads (azimuth, elevation, distance, fov, t of `dims` draws) over the step's `views`
  views; `camera_from` (u [4]) -> Camera, which `move` (key, Camera, step) -> Camera may change.
  """
  def place(key, ids, step):
    u = design(jax.random.split(key, 3)[0], ids, views=views, dims=4 + dims)
    camera = jax.vmap(camera_from)(u[:, :4])
    if move:
      camera = jax.vmap(move, (0, 0, None))(by_view(jax.random.fold_in(key, MOVE), ids), camera,
                                            step)
    return camera, u[:, 4:]
  return place


def make_sample(*, design: Callable[..., Array], camera_from: Callable[[Array], Camera],
                draw: Callable[..., Draws], views: int, dims: int = 1,
                move: Move | None = None) -> Sample:
  """(key, ids [local views], step) -> (camera [V], Draws, one key a view for rendering): the views
  of make_views, and `draw` (key, u [V, dims], ids, step) -> Draws."""
  place = make_views(design=design, camera_from=camera_from, views=views, dims=dims, move=move)
  def sample(key, ids, step):
    _, k_draw, k_render = jax.random.split(key, 3)
    camera, u = place(key, ids, step)
    return camera, draw(k_draw, u, ids, step), by_view(k_render, ids)
  return sample
