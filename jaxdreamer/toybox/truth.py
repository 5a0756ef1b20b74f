"""Scores against the exact shape: what a caption of the toybox means, as geometry and as pictures.

Rows of points are xyz [N, 3] in the world frame; the shape lies in the ball of radius world.RADIUS.
Grids are [n, n, n] over [-1, 1]^3, indexed x, y, z, at cell centers. Pictures are lit by
views.LIGHT.
"""
from functools import partial
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jaxdreamer.toybox import views as pictures
from jaxdreamer.toybox import world
from jaxdreamer.toybox.primitives import norm
from jaxdreamer.types import Camera

STEPS = 96                       # of sphere tracing: truth may take its time
BATCH = 8                        # views drawn together
CANDIDATES = 64                  # drawn for each surface point
# colors whose every channel, and the other part of whose patterns, tell those of all others
BASIS = ('black', 'pink', 'white')
GREY = .75  # the background on which pictures are compared; no color of the toybox


class Shape(NamedTuple):
  # xyz [N, 3] -> signed distance [N], negative inside; a lower bound of the true one
  distance: Callable
  color: Callable               # xyz [N, 3] -> albedo [N, 3] of the nearest surface
  has_front: bool                # whether front and back differ at a glance


def _columns(xyz):
  return tuple(xyz[:, i] for i in range(3))


def _composition(item):
  """What jit tells programs apart by: each holds one toy, or one pair."""
  return tuple(map(int, item.kind)), int(item.relation)


def _of(composition, color=None, pattern=None):
  return world.Item(np.array(composition[0]), composition[1], color, pattern)


@partial(jax.jit, static_argnums=0)
def _distance(composition, xyz):
  return world.distance(_of(composition), _columns(xyz))


@partial(jax.jit, static_argnums=0)
def _color(composition, color, pattern, xyz):
  return jnp.stack(world.surface(_of(composition, color, pattern), _columns(xyz)), -1)


def shape(caption: str) -> Shape:
  """The exact shape a caption names."""
  item = world.parse(caption)
  has_front = int(item.relation) == world.ALONE and world.KINDS[int(item.kind[0])] in world.FRONT
  composition = _composition(item)
  return Shape(partial(_distance, composition),
               partial(_color, composition, item.color, item.pattern), has_front)


@partial(jax.jit, static_argnames=('composition', 'size', 'supersample'))
def _render(composition, item, camera, light, size, supersample):
  if composition:
    item = _of(composition, item.color, item.pattern)
  return pictures.render_batch(item, camera, light, size=size, supersample=supersample, steps=STEPS)


def views(caption: str, camera: Camera, *, size: int, supersample: int = 2,
          many: bool = False) -> pictures.View:
  """What the cameras [V] see of the exact shape, in NumPy. They are served BATCH at a time, so that
  one program draws any number of views.

  Args:
    many: True: one program for all toys, that compiles as long as those of five, for who draws
      many.
  """
  item, n = world.parse(caption), len(camera.fov)
  batch = min(n, BATCH)
  rows = lambda v: np.broadcast_to(v, (batch, *np.shape(v)))
  repeated = item._replace(color=rows(item.color), pattern=rows(item.pattern))
  light = jax.tree.map(rows, pictures.LIGHT)
  drawn = []
  for first in range(0, n, batch):
    some = np.arange(first, first + batch) % n
    drawn.append(jax.device_get(_render(
      None if many else _composition(item), repeated,
      jax.tree.map(lambda v, some=some: np.asarray(v)[some], camera), light, size,
      supersample)))
  return jax.tree.map(lambda *v: np.concatenate(v)[:n], *drawn)


def silhouettes(caption: str, camera: Camera, *, size: int) -> Bool[np.ndarray, 'V size size']:
  """Pixels of which the exact shape covers at least half."""
  return views(caption, camera, size=size).mask >= .5


@partial(jax.jit, static_argnums=(1, 2))
def _surface_points(key, composition, n):
  item = _of(composition)
  p = tuple(jax.random.uniform(key, (3, CANDIDATES * n), minval=-world.RADIUS, maxval=world.RADIUS))

  def newton(_, p):
    d, g = world.distance(item, p), world.gradient(item, p)
    return tuple(u - d * c / jnp.maximum(sum(c * c for c in g), .1) for u, c in zip(p, g))

  height = jnp.abs(world.distance(item, p)) / jnp.maximum(norm(*world.gradient(item, p)), .1)
  _, nearest = jax.lax.top_k(-height, n)
  return jnp.stack(jax.lax.fori_loop(0, 4, newton, tuple(u[nearest] for u in p)), -1)


def surface_points(key: Key[Array, ''], caption: str, n: int) -> Float[Array, 'n 3']:
  """Points on the surface, uniform in area: those of many in the ball's cube that lie nearest to
  it, drawn onto it."""
  return _surface_points(key, _composition(world.parse(caption)), n)


@partial(jax.jit, static_argnums=0)
def _normals(composition, xyz):
  slope = world.gradient(_of(composition), _columns(xyz))
  return jnp.stack(slope, -1) / jnp.maximum(norm(*slope), 1e-6)[:, None]


def normals(caption: str, xyz: Float[Array, 'n 3']) -> Float[Array, 'n 3']:
  """Which way the exact shape faces at points on or near its surface."""
  return _normals(_composition(world.parse(caption)), xyz)


def grid(n: int) -> Float[Array, 'N 3']:
  """The centers of the n^3 cells of [-1, 1]^3, x slowest."""
  at = (2. * jnp.arange(n) + 1.) / n - 1.
  return jnp.stack(jnp.meshgrid(at, at, at, indexing='ij'), -1).reshape(-1, 3)


def occupancy(caption: str, n: int) -> Bool[Array, 'n n n']:
  """Cells whose center lies inside."""
  return (shape(caption).distance(grid(n)) < 0.).reshape(n, n, n)


def color_error(rgb: Float[np.ndarray, 'V H W 3'], mask: Float[np.ndarray, 'V H W'],
                true: pictures.View) -> float:
  """Mean absolute difference of color (premultiplied, as in View) where a render and the truth are
  both opaque."""
  solid = (mask > .9) & (true.mask > .9)
  return float(np.abs(rgb - true.rgb)[solid].mean()) if solid.any() else 0.


def over_gray(rgb: Float[np.ndarray, '*k V H W 3'], mask: Float[np.ndarray, 'V H W']) -> Float[
    np.ndarray, '*k V H W 3']:
  """Premultiplied color over the background."""
  return np.asarray(rgb, float) + (1. - np.asarray(mask, float)[..., None]) * GREY


def in_each_color(item: world.Item, which: int, camera: Camera, *,
                  size: int) -> Float[np.ndarray, 'K V H W 3']:
  """The truth in each of the world's colors of object `which`, over the background.

  A pixel's color is linear in the object's own and in that of the other part of its pattern, so
  that three tracings tell all."""
  known = [list(world.COLORS).index(name) for name in BASIS]
  traced = [views(world.caption(world.repainted(item, which, k)), camera, size=size)
            for k in known]
  own = np.array(list(world.COLORS.values()))
  parts = np.stack([own, np.broadcast_to(np.array(world.PARTNERS)[:, None], own.shape),
                    np.ones_like(own)], -1).swapaxes(0, 1)
  shares = parts @ np.linalg.inv(parts[:, known])  # [channel, K, tracing], of [channel, K, part]
  rgb = np.einsum('ckm,mvhwc->kvhwc', shares, np.stack([view.rgb for view in traced]))
  return over_gray(rgb, traced[0].mask)


def rivals(prompt: str) -> world.Item:
  """The item [K] of the prompt, first, and all that differ from it in one color or one kind."""
  target, found = world.parse(prompt), []
  lone = int(target.relation) == world.ALONE
  for which in range(1 if lone else 2):
    colors = [world.repainted(target, which, k) for k in range(len(world.COLORS))]
    kinds = [target._replace(kind=np.where(np.arange(2) == which, k, target.kind))
             for k in range(len(world.KINDS if lone else world.SOLIDS))]
    found += [item for item in colors + kinds if world.caption(item) != world.caption(target)]
  return jax.tree.map(lambda *leaves: np.stack(leaves), target, *found)
