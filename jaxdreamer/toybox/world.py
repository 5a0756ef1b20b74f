"""The embedded world, exact by construction: signed distance and color of an item at any point, and
its captions.

Points are `p = (x, y, z)`, three arrays of one shape: a structure of arrays is five times faster
here than rows of three. Everything lies in the ball of radius `RADIUS` about the origin. Batches
share one composition (kind, relation). Where it is known as the program is traced (NumPy's numbers,
as `parse` returns them), the program holds that toy alone and compiles in a fraction of the time;
where it is an argument of the program, the `lax.switch` over toys is a true branch; under vmap over
items it is still right, and slow.

This is the door to the toybox: toys.py has the shapes, items.py what can be made of them,
language.py what can be said.
"""
import itertools
from functools import partial
from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdreamer.toybox import items, language, toys
from jaxdreamer.toybox.primitives import least, most, move, norm, wrap

KINDS, SOLIDS, TOYS, BASES, FRONT = toys.KINDS, toys.SOLIDS, toys.TOYS, toys.BASES, toys.FRONT
COLORS, PARTNERS, PATTERNS, RELATIONS = (items.COLORS, items.PARTNERS, items.PATTERNS,
                                         items.RELATIONS)
ALONE, ON, BESIDE = items.ALONE, items.ON, items.BESIDE
Item, sample, sample_of, sample_composition = (items.Item, items.sample, items.sample_of,
                                               items.sample_composition)
repainted = items.repainted
VOCABULARY, LENGTH, PAD, BOS, EOS = (language.VOCABULARY, language.LENGTH, language.PAD,
                                     language.BOS, language.EOS)
VIEW_WORDS, FORMS = language.VIEW_WORDS, language.FORMS
tokens, tokenize, words, caption, parse, names_a_toy = (language.tokens, language.tokenize,
                                                        language.words, language.caption,
                                                        language.parse, language.names_a_toy)

RADIUS = .9
TAP = 1e-3                                       # of the finite differences
Point = tuple[Float[Array, '*n'], Float[Array, '*n'], Float[Array, '*n']]

# Solids of a pair are scaled by these, so that their widths are alike.
PAIR_SIZE = dict(sphere=.66, cube=1., cylinder=.8, cone=.85, torus=.85, pyramid=1.05,
                 capsule=.82, egg=.72)
GAP = .14  # between two solids side by side, before they are scaled up


def _round(radius, r):
  """Height of a circle at r, nan beyond it."""
  return np.sqrt(np.where(np.abs(r) <= radius, radius ** 2 - r * r, np.nan))


def _profile(kind, r):
  """Heights of the lower and upper surface of a solid at distance r from its axis, nan beyond its
  farthest point."""
  def flat(reach, height):
    return np.where(r <= reach, height, np.nan)

  def steep(reach, low, top):
    return flat(reach, low), flat(reach, top - (top - low) * r / reach)

  def drop(r0, r1, z0, z1):
    s = (r0 - r1) / (z1 - z0)
    c = np.sqrt(1 - s * s)
    side = np.where(r < c * r0, z0 + (r0 - c * r) / s, z0 + _round(r0, r))
    return z0 - _round(r0, r), np.where(r < c * r1, z1 + _round(r1, r), side)

  upper = {'sphere': _round(toys.BALL, r), 'cube': flat(np.sqrt(2.) * toys.CUBE, toys.CUBE),
           'cylinder': flat(toys.CAN_R, toys.CAN_H),
           'torus': _round(toys.TORUS_r, r - toys.TORUS_R),
           'capsule': toys.PILL_H + _round(toys.PILL_R, r)}
  return {'cone': steep(toys.CONE_R, toys.CONE_LOW, toys.CONE_TOP), 'egg': drop(*toys.EGG),
          'pyramid': steep(np.sqrt(2.) * toys.PYRAMID_R, toys.PYRAMID_LOW, toys.PYRAMID_TOP),
          **{k: (-h, h) for k, h in upper.items()}}[kind]


def _enclose(across, heights):
  """Middle, on the axis, and radius of the least ball around all points; a convex search, in large
  steps and then in small."""
  across, heights = across[~np.isnan(heights)], heights[~np.isnan(heights)]
  def reach(s):
    return np.sqrt(np.max(across ** 2 + (heights - s[:, None]) ** 2, 1))
  shifts = np.linspace(-1., 3., 801)
  near = shifts[::20][reach(shifts[::20]).argmin()]
  around = shifts[np.abs(shifts - near) < .11]
  radii = reach(around)
  return around[radii.argmin()], radii.min()


def _places():
  """[relation, kind, kind, 2, (y, z, scale)]: the two solids touch, or stand on one floor, and fill
  the ball."""
  r = np.linspace(0., 1., 2001)
  table = np.tile(np.array([0., 0., 1.]), (len(RELATIONS), len(SOLIDS), len(SOLIDS), 2, 1))
  profiles = [[h * PAIR_SIZE[k] for h in _profile(k, r / PAIR_SIZE[k])] for k in SOLIDS]
  widths = [r[np.isfinite(top)].max() / (np.sqrt(2.) if k in ('cube', 'pyramid') else 1.)
            for k, (_, top) in zip(SOLIDS, profiles)]
  for (i, a), (j, b) in itertools.product(enumerate(SOLIDS), repeat=2):
    (low_a, top_a), (low_b, top_b) = profiles[i], profiles[j]
    rise = np.nanmax(top_b - low_a)  # a comes down on b until they touch
    apart = (widths[i] + widths[j] + GAP) / 2
    stacked, level = (ON, 0., 0., rise, 0.), (BESIDE, -apart, apart, -np.nanmin(low_a),
                                              -np.nanmin(low_b))
    for relation, ya, yb, za, zb in (stacked, level):
      across = np.concatenate([r + abs(ya), r + abs(ya), r + abs(yb), r + abs(yb)])
      heights = np.concatenate([low_a + za, top_a + za, low_b + zb, top_b + zb])
      middle, radius = _enclose(across, heights)
      scale = (RADIUS - .005) / radius
      table[relation, i, j] = [(y * scale, (z - middle) * scale, scale * PAIR_SIZE[k])
                               for y, z, k in ((ya, za, a), (yb, zb, b))]
  return table.astype(np.float32)


PLACES = _places()
DISTANCES = [lambda p, toy=toy: toy(p)[0] for toy in TOYS.values()]
SLOTS = [lambda p, toy=toy: toy(p)[1] for toy in TOYS.values()]


def _choose(index, branches, *args):
  """The branch at `index`, of `args`: the others are not even traced where the index is known."""
  if isinstance(index, jax.core.Tracer):
    return jax.lax.switch(index.astype(jnp.int32), branches, *args)
  return branches[int(index)](*args)


def _pair(item, p):
  """Of each of the two solids: its own coordinates of p, and its distance."""
  places = jnp.asarray(PLACES) if isinstance(item.relation, jax.core.Tracer) else PLACES
  row = places[item.relation, *item.kind.clip(max=len(SOLIDS) - 1)]
  own = [tuple(u / s for u in move(p, 0., y, z)) for y, z, s in row]
  return own, [s * _choose(k, DISTANCES[:len(SOLIDS)], q)
               for k, q, s in zip(item.kind, own, row[:, 2])]


def distance(item: Item, p: Point) -> Float[Array, '*n']:
  """Signed distance at p, negative inside; never more than the true one. `item.color` and
  `.pattern` are not read."""
  alone = lambda: most(_choose(item.kind[0], DISTANCES, p), norm(*p) - RADIUS)
  return _choose(item.relation == ALONE, (lambda: least(*_pair(item, p)[1]), alone))


def gradient(item: Item, p: Point) -> Point:
  """Of the distance: finite everywhere, and outward at the surface."""
  return slope(partial(distance, item), p)


def slope(distance: Callable[[Point], Array], p: Point) -> Point:
  """The gradient of a distance, by four taps on a tetrahedron."""
  corners = jnp.array([[1., 1., 1.], [1., -1., -1.], [-1., 1., -1.], [-1., -1., 1.]])
  taps = jax.lax.map(lambda corner: distance(tuple(u + TAP * c for u, c in zip(p, corner))),
                     corners)
  return tuple(sum(c * d for c, d in zip(column, taps)) / (4 * TAP) for column in corners.T)


def _marked(pattern, p):
  """Where a pattern shows its second color: solid textures, so that all views agree."""
  stripe = wrap((.45 * p[0] + .45 * p[1] + .77 * p[2]) / .34, 1.) < .45
  check = wrap(sum(jnp.floor(u / .36 + .5) for u in p), 2.) > .5
  near = lambda shift: norm(*(wrap(u / .42 + shift, 1.) - .5 for u in p))
  spot = least(near(0.), near(.5)) < .30
  return ((pattern == 1) & stripe) | ((pattern == 2) & check) | ((pattern == 3) & spot)


def surface(item: Item, p: Point) -> Point:
  """Albedo (r, g, b) in [0, 1] of the surface nearest to p. Leading axes of color and pattern are
  those of p."""
  none = jnp.zeros(p[0].shape, jnp.int32)

  def pair():
    (qa, qb), (da, db) = _pair(item, p)
    second = db < da
    return tuple(jnp.where(second, b, a) for a, b in zip(qa, qb)), none, second.astype(jnp.int32)

  alone = lambda: (p, _choose(item.kind[0], SLOTS, p), none)
  own, slot, owner = _choose(item.relation == ALONE, (pair, alone))

  def of_owner(v):
    """[*b, 2] to the shape of p."""
    v = v.reshape(v.shape[:-1] + (1,) * (owner.ndim - v.ndim + 1) + (2,))
    return jnp.where(owner == 1, v[..., 1], v[..., 0])

  partner = jnp.array(PARTNERS)[item.color]
  marked = _marked(of_owner(item.pattern), own)
  channels = []
  for main, fixed in zip(jnp.array(list(COLORS.values())).T, jnp.array(toys.FIXED).T):
    main = of_owner(main[item.color])
    shown = jnp.where(marked, of_owner(partner), main)
    channels.append(jnp.where(slot == toys.MAIN, shown, jnp.where(slot == toys.SHADE, .5 * main,
                                                                  fixed[slot])))
  return tuple(channels)
