"""Silhouettes that move: where an outline passes between the centers of two pixels, they are
blended by how far it reaches, after nvdiffrast's analytic antialiasing (Laine et al. 2020, section
3.5). It is all that a mask, or what hides behind it, tells the vertices.

Of two neighbors in a row whose outline lies at s in [0, 1] from the center of the nearer, A, to
that of the farther, B: where s > 1/2, B gets s - 1/2 of A; else A gets 1/2 - s of B. So a pixel
changes continuously as an outline passes its center. Outlines nearer to the vertical blend
neighbors in a row, all others neighbors in a column.

Their method looks for the outline among the edges of the faces that the two pixels see, which loses
it where faces are smaller than pixels. Here every edge of the mesh is asked, whether one of its two
faces is seen from outside and one from inside, or whether it has one face alone; of several that
pass between two centers the outermost counts.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdreamer.meshes.rasterizer import expand, first_center, signed_areas
from jaxdreamer.meshes.topology import Mesh

LEVELS = 2 ** 12                       # of s, in the order of outlines between two pixels


def _outlines(screen, mesh: Mesh, *, size, capacity):
  """One item for each edge of an outline and each row, or column, of pixel centers that it meets:
  its vertices [P 2], the row or column, whether it is a row, whether the object lies towards the
  lesser pixel, whether it is an item; and how many found no room."""
  half = jnp.maximum(jnp.max(mesh.edges, 1), 0)
  other = jnp.minimum(mesh.edges[:, 0], mesh.edges[:, 1])
  face, corner = half // 3, half % 3
  ends = jnp.stack([mesh.faces[face, corner], mesh.faces[face, (corner + 1) % 3]], 1)
  outward = signed_areas(screen, mesh.faces) < 0.
  outline = (jnp.max(mesh.edges, 1) >= 0) & (
    (other < 0) | (outward[face] != outward[jnp.maximum(other, 0) // 3]))
  (xa, ya, za), (xb, yb, zb) = (screen[ends[:, k]].T for k in range(2))
  in_row = jnp.abs(yb - ya) >= jnp.abs(xb - xa)
  from_, to = jnp.where(in_row, ya, xa), jnp.where(in_row, yb, xb)
  first, end = (first_center(v, size) for v in (jnp.minimum(from_, to), jnp.maximum(from_, to)))
  count = jnp.where(outline & (jnp.minimum(za, zb) > 0.), end - first, 0)
  # a face seen from outside lies on the right of its half-edges as rows count downwards
  lesser = (to > from_) ^ outward[face] ^ ~in_row
  owner, place, there, dropped = expand(count, capacity)
  return (ends[owner], first[owner] + place, in_row[owner], lesser[owner], there), dropped


def _crossing(screen, ends, line, in_row):
  """Where the edges meet the row or column of centers: place along it, in pixels, and 1 / far."""
  a, b = screen[ends[:, 0]], screen[ends[:, 1]]
  along = lambda v: jnp.where(in_row, v[:, 1], v[:, 0])
  across = lambda v: jnp.where(in_row, v[:, 0], v[:, 1])
  rise = along(b) - along(a)
  t = (line + .5 - along(a)) / jnp.where(rise == 0., 1., rise)
  near = lambda v: 1. / jnp.maximum(v[:, 2], 1e-3)
  return across(a) + t * (across(b) - across(a)), near(a) + t * (near(b) - near(a))


def antialias(image: Float[Array, 'H W C'], far: Float[Array, 'H W'], screen: Float[Array, 'N 3'],
              mesh: Mesh, *, slack: Float[Array, ''], capacity: int) -> tuple[
                  Float[Array, 'H W C'], Int[Array, '']]:
  """The image with its silhouettes blended, and how many crossings found no room among `capacity`.

  `far` is of the faces that the pixels see, inf for none. An outline is that of the nearer pixel's
  surface if it is as far as that, give or take `slack`, and nearer than what the other pixel sees.
  """
  size = image.shape[0]
  held = jax.lax.stop_gradient(screen)
  (ends, line, in_row, lesser, there), dropped = _outlines(held, mesh, size=size, capacity=capacity)
  place, near = _crossing(held, ends, line, in_row)
  low = jnp.floor(place - .5)
  there = there & (low >= 0.) & (low < size - 1.)
  low = jnp.clip(low, 0., size - 2.).astype(jnp.int32)
  index = lambda k: jnp.where(in_row, line * size + k, k * size + line)
  a, b = index(jnp.where(lesser, low, low + 1)), index(jnp.where(lesser, low + 1, low))
  far = far.reshape(-1)
  there = there & (near * far[b] > 1.) & (jnp.abs(1. / near - far[a]) < slack) & (far[a] < far[b])

  def reach(place):
    return jnp.where(lesser, place - .5 - low, low + 1.5 - place)
  # of several, the one that reaches farthest: its rank before its number
  rank = (reach(place) * (LEVELS - 1)).astype(jnp.int32)
  items = jnp.arange(capacity)
  assert capacity * LEVELS <= 2 ** 31
  pair = jnp.where(there, index(low) + jnp.where(in_row, 0, size * size), 2 * size * size)
  best = jnp.full(2 * size * size, -1).at[pair].max(rank * capacity + items, mode='drop')
  there = there & (best[jnp.minimum(pair, 2 * size * size - 1)] % capacity == items)

  s = reach(_crossing(screen, ends, line, in_row)[0])
  to, of = jnp.where(s > .5, b, a), jnp.where(s > .5, a, b)
  share = jnp.where(there, jnp.abs(s - .5), 0.)
  total = jnp.zeros(size * size).at[to].add(share)             # of a hole, its neighbors' are all
  share = share / jnp.maximum(total, 1.)[to]
  flat = image.reshape(size * size, -1)
  blended = flat.at[to].add(share[:, None] * (flat[of] - flat[to]))
  return blended.reshape(image.shape), dropped
