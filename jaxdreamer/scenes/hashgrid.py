"""Multiresolution hash grid (Instant-NGP, Mueller et al. 2022) and a small MLP: detail where the
scene needs it.

A level is a grid of `size`^3 cells over the cube [-1, 1]^3 and a table of features for its corners.
Levels whose corners fit are indexed directly, the others by Instant-NGP Eq. 4. The eight corners
are eight separate look-ups: under vmap over points one gather of [points, 8] is several times
slower on a CPU.
"""
import itertools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdreamer.scenes import fields
from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Scene

PRIMES = (1, 2654435761, 805459861)


def resolution(level: int, *, levels: int, base: int, finest: int) -> int:
  """Geometric from base to finest, Instant-NGP Eqs. 2 and 3."""
  growth = math.exp(math.log(finest / base) / max(levels - 1, 1))
  return math.floor(base * growth ** level + 1e-6)


def slot(corner: list[Int[Array, '']], *, size: int, rows: int) -> Int[Array, '']:
  """The row that holds a corner. `rows` is a power of two where corners have to share."""
  x, y, z = corner
  if (size + 1) ** 3 <= rows:
    return (x * (size + 1) + y) * (size + 1) + z
  x, y, z = (v.astype(jnp.uint32) * jnp.uint32(prime) for v, prime in zip(corner, PRIMES))
  return ((x ^ y ^ z) & jnp.uint32(rows - 1)).astype(jnp.int32)


def lookup(table: Float[Array, 'T F'], xyz: Float[Array, '3'], *, size: int) -> Float[Array, 'F']:
  """One level at one point: trilinear between the eight corners around it."""
  place = [jnp.clip(.5 * (v + 1.), 0., 1.) * size for v in xyz]
  cell = [jnp.minimum(jnp.floor(p), size - 1.) for p in place]
  part = [p - i for p, i in zip(place, cell)]
  out = jnp.zeros(table.shape[1])
  for corner in itertools.product((0, 1), repeat=3):
    weight = math.prod(f if c else 1. - f for c, f in zip(corner, part))
    index = slot([i.astype(jnp.int32) + c for i, c in zip(cell, corner)], size=size,
                 rows=table.shape[0])
    out = out + weight * table.at[index].get(mode='promise_in_bounds', wrap_negative_indices=False)
  return out


def encode(tables: list, xyz: Float[Array, '3'], *, sizes: list[int]) -> Float[Array, 'E']:
  """All levels at one point."""
  return jnp.concatenate([lookup(table, xyz, size=n) for table, n in zip(tables, sizes)])


def init_tables(key: Key[Array, ''], sizes: list[int], *, per_level: int, log2_table: int) -> list:
  """Near 0."""
  rows = [min((n + 1) ** 3, 2 ** log2_table) for n in sizes]
  return [jax.random.uniform(k, (n, per_level), minval=-1e-4, maxval=1e-4)
          for k, n in zip(jax.random.split(key, len(sizes)), rows)]


def fade_in(params: dict, active: Float[Array, ''] | float) -> dict:
  """Coarse to fine: only the first `active` levels, a fraction fading in (threestudio's progressive
  band, made smooth).

  A point's feature is linear in the tables, so scaling them here, once per step, needs no switch in
  the field.
  """
  share = [jnp.clip(active - l, 0., 1.) for l in range(len(params['tables']))]
  return params | {'tables': [s * t for s, t in zip(share, params['tables'])]}


def hashgrid(*, levels: int = 8, per_level: int = 2, log2_table: int = 14, base: int = 8,
             finest: int = 128, width: int = 64, features: int = 3, activation: str = 'softplus',
             blob: str = 'cone', strength: float = 8., radius: float = .45, extent: float = 1.,
             separate: bool = False, band: Schedule = (64.,)) -> Scene:
  """Levels -> one hidden layer -> density and features. threestudio: 16 levels, 2^19 rows, 16 to
  4096, `separate`.

  Args:
    levels: grids, each finer than the one before.
    per_level: numbers that a node of a level holds.
    log2_table: a level has at most 2 to this power rows.
    base, finest: cells a side of the first and of the last level.
    width: units of the hidden layer.
    features: channels beside the density; the first three are the color.
    activation: of the density.
    blob: 'cone' or 'gauss', what a scene starts from.
    strength, radius: of the blob, before the activation.
    extent: half a side of the cube that the levels fill.
    separate: True: density and features each have a network of their own, without biases.
    band: how many levels there are, a schedule, see `fade_in`; (1, 8, 100) trains coarse levels
      first.
  """
  activate, bias = fields.ACTIVATIONS[activation], fields.BLOBS[blob]
  sizes = [resolution(l, levels=levels, base=base, finest=finest) for l in range(levels)]

  def init(key: Key[Array, '']):
    k_tables, k_hidden, k_out = jax.random.split(key, 3)
    tables = init_tables(k_tables, sizes, per_level=per_level, log2_table=log2_table)
    if separate:
      return {'tables': tables, 'density': fields.network_init(k_hidden,
                                                               (levels * per_level, width, 1)),
              'features': fields.network_init(k_out, (levels * per_level, width, features))}
    return {'tables': tables, 'hidden': fields.dense_init(k_hidden, levels * per_level, width),
            'out': fields.dense_init(k_out, width, 1 + features, gain=1.)}

  def prepare(params, y):
    return params

  def field(code, xyz):
    encoded = encode(code['tables'], xyz / extent, sizes=sizes)
    if separate:
      raw = jnp.concatenate([fields.network(code[name], encoded)
                             for name in ('density', 'features')])
    else:
      raw = fields.dense(code['out'], jax.nn.relu(fields.dense(code['hidden'], encoded)))
    return fields.split_raw(raw, bias(xyz, strength=strength, radius=radius), activate)

  def focus(code, step):
    return fade_in(code, at(band, step))

  return Scene(init, prepare, field, focus)
