"""Which part of space is worth asking: a grid of cells over the cube around the ball of `radius`,
after Instant-NGP (Mueller et al. 2022) and NerfAcc (Li et al. 2023).

    occupied = grid(key, field, cells=32, radius=1., step=.01)
    inside(occupied, xyz, radius=1.)

Theirs is part of a run's state, and remembers the largest density that it met in a cell. This one
is made anew for each step, of a random point in each cell, and keeps the neighbors of what is
dense, so that a surface may lie between two points, and move. A step costs cells^3 densities
without gradient, and a run needs no state for it.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxdreamer.scenes import fields

FAINT = .01                            # an optical depth, of one step, below which there is nothing


def grid(key: Key[Array, ''], field: fields.Colored, *, cells: int, radius: float,
         step: float) -> Bool[Array, 'n n n']:
  """Of cells^3 in [-radius, radius]^3, those where density times `step`, the length of a sample's
  interval, is above FAINT, or above a tenth of the largest where that is less, and their
  neighbors."""
  corner = jnp.stack(jnp.meshgrid(*3 * [jnp.arange(cells)], indexing='ij'), -1).reshape(-1, 3)
  place = (corner + jax.random.uniform(key, corner.shape)) / cells
  depth = step * jax.vmap(lambda xyz: field(xyz)[0])(radius * (2. * place - 1.))
  dense = depth > jnp.minimum(FAINT, .1 * jnp.max(depth))
  return jax.lax.reduce_window(dense.reshape(3 * (cells,)), False, jnp.logical_or, (3, 3, 3),
                               (1, 1, 1), 'SAME')


def inside(occupied: Bool[Array, 'n n n'], xyz: Float[Array, '*b 3'], *,
           radius: float) -> Bool[Array, '*b']:
  """Whether points lie in occupied cells."""
  n = len(occupied)
  cell = jnp.clip(jnp.floor((.5 * xyz / radius + .5) * n), 0, n - 1).astype(jnp.int32)
  return occupied.ravel()[(cell[..., 0] * n + cell[..., 1]) * n + cell[..., 2]]


def chosen(there: Bool[Array, 'P'], room: int) -> tuple[Int[Array, 'room'], Int[Array, '']]:
  """The places of the first `room` True of P, followed, where there are fewer, by numbers from P
  on; and how many True there were beyond."""
  count = jnp.sum(there)
  (places,) = jnp.nonzero(there, size=room, fill_value=0)
  item = jnp.arange(room)
  return jnp.where(item < count, places, there.size + item), jnp.maximum(count - room, 0)
