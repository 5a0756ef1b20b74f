"""Multiresolution hash grid (Instant-NGP, Mueller et al. 2022) and a small MLP: detail where the scene needs it.

Level l has resolution floor(base growth^l) over the cube [-1, 1]^3. Levels whose corners fit into the table are indexed
directly, the others by Instant-NGP Eq. 4. The eight corners are eight look-ups of whole columns of points: one gather of
[points, 8] is 2-5 times slower on a CPU.
"""
import itertools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdreamer.scenes import fields
from jaxdreamer.types import Scene

PRIMES = (1, 2654435761, 805459861)


def resolutions(*, levels: int, base: int, finest: int) -> tuple[int, ...]:
  """Geometric from base to finest, Instant-NGP Eqs. 2 and 3."""
  growth = math.exp(math.log(finest / base) / max(levels - 1, 1))
  return tuple(math.floor(base * growth ** l + 1e-6) for l in range(levels))


def slot(corner: Int[Array, '3'], resolution: Int[Array, ''], size: int) -> Int[Array, '']:
  """The row of a corner in a table of `size` = 2^k rows."""
  x, y, z = corner.astype(jnp.uint32)
  n = resolution.astype(jnp.uint32) + 1
  hashed = (x * jnp.uint32(PRIMES[0]) ^ y * jnp.uint32(PRIMES[1]) ^ z * jnp.uint32(PRIMES[2])) % jnp.uint32(size)
  fits = resolution < math.floor(size ** (1 / 3) + 1e-6)                   # (resolution + 1)^3 <= size
  return jnp.where(fits, (x * n + y) * n + z, hashed).astype(jnp.int32)


def level(table: Float[Array, 'T F'], resolution: Int[Array, ''], xyz: Float[Array, '3']) -> Float[Array, 'F']:
  """Trilinear interpolation between the eight corners around one point."""
  place = jnp.clip(.5 * (xyz + 1.), 0., 1.) * resolution
  cell = jnp.minimum(jnp.floor(place), resolution - 1.)
  part = place - cell
  out = jnp.zeros(table.shape[1])
  for corner in itertools.product((0, 1), repeat=3):
    weight = math.prod(f if c else 1. - f for c, f in zip(corner, part))
    index = slot(cell.astype(jnp.int32) + jnp.array(corner), resolution, table.shape[0])
    out = out + weight * table.at[index].get(mode='promise_in_bounds', wrap_negative_indices=False)
  return out


def band(params: dict, active: Float[Array, '']) -> dict:
  """Coarse to fine: only the first `active` levels, a fraction fading in (threestudio's progressive band, made smooth).

  A point's feature is linear in the table, so scaling the levels here, once per step, needs no switch in the field.
  """
  share = jnp.clip(active - jnp.arange(params['table'].shape[0]), 0., 1.)
  return {**params, 'table': params['table'] * share[:, None, None]}


def hashgrid(*, levels: int = 12, per_level: int = 2, log2_size: int = 14, base: int = 8, finest: int = 128,
             width: int = 64, features: int = 3, activation: str = 'softplus', blob: str = 'cone', strength: float = 8.,
             radius: float = .45) -> Scene:
  """Hash grid -> one hidden layer -> density and features. threestudio: 16 levels, 2^19 rows, 16 to 4096."""
  activate, bias = fields.ACTIVATIONS[activation], fields.BLOBS[blob]
  resolution = resolutions(levels=levels, base=base, finest=finest)

  def init(key: Key[Array, '']):
    k_table, k_hidden, k_out = jax.random.split(key, 3)
    return {'table': jax.random.uniform(k_table, (levels, 2 ** log2_size, per_level), minval=-1e-4, maxval=1e-4),
            'hidden': fields.dense_init(k_hidden, levels * per_level, width),
            'out': fields.dense_init(k_out, width, 1 + features, gain=1.)}

  def prepare(params, y):
    return params

  def field(code, xyz):
    encoded = jnp.concatenate([level(t, jnp.int32(n), xyz) for t, n in zip(code['table'], resolution)])
    hidden = jax.nn.relu(fields.dense(code['hidden'], encoded))
    return fields.split_raw(fields.dense(code['out'], hidden), bias(xyz, strength=strength, radius=radius), activate)

  return Scene(init, prepare, field)
