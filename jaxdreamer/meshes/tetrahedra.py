"""Marching tetrahedra: a signed distance at the nodes of a grid -> the triangles of {distance = 0}
(Doi and Koide 1991; differentiable, Shen et al. 2021, DMTet).

Each cube of the grid is split in the six tetrahedra around its diagonal (Kuhn 1960), which meet
those of its neighbors face to face: the surface is closed and manifold. A corner of a cube is a
number of three bits (x, y, z), and an edge of a tetrahedron joins corner a to a corner that has a's
bits and more: such an edge belongs to the cube whose corner 0 is a, in one of seven directions. So
vertices, and the edges of the mesh as well, have numbers that neighbors agree on, and nothing is
searched or sorted.
"""
import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdreamer.meshes.topology import Mesh

CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))                     # bits of 0 to 7
# along the edges of the cube from corner 0 to corner 7, one axis after another
TETRAHEDRA = [(0, a, a | b, 7) for a, b in itertools.permutations((4, 2, 1), 2)]
DIRECTIONS = 7                         # of the edges of tetrahedra: b - a of corners a and b
# edges of the mesh that belong to a cube: on the 12 faces of tetrahedra that have its corner 0 as
# their least, and across each of its 6 tetrahedra, where a quadrangle is two triangles
FACES = [(d, e) for d in range(1, 8) for e in range(d + 1, 8) if d & e == d]
EDGES = len(FACES) + len(TETRAHEDRA)
TRIANGLES = 2 * len(TETRAHEDRA)        # at most, of a cube


def _triangles(tetrahedron, inside):
  """The triangles of one tetrahedron of which these corners are inside, each three edges (a, b):
  counter-clockwise seen from outside."""
  within = [c for c, sign in zip(tetrahedron, inside) if sign]
  beyond = [c for c in tetrahedron if c not in within]
  cut = lambda p, q: (min(p, q), max(p, q))      # of two corners the lesser has the fewer bits
  if len(within) == 2:
    (p, q), (r, s) = within, beyond
    ring = [cut(p, r), cut(p, s), cut(q, s), cut(q, r)]
  else:
    ring = [cut(p, q) for p in within for q in beyond]
  found = [tuple(ring[i] for i in (0, k, k + 1)) for k in range(1, len(ring) - 1)]
  outward = CORNERS[beyond].mean(0) - CORNERS[within].mean(0) if found else None
  def turned(triangle):
    a, b, c = (CORNERS[list(edge)].mean(0) for edge in triangle)
    return triangle if np.cross(b - a, c - a) @ outward > 0. else triangle[::-1]
  return [turned(triangle) for triangle in found]


def _edge(number, first, second):
  """(cube's corner that owns it, its number there) of the edge of the mesh between two cuts."""
  corners = sorted({*first, *second})
  if len(corners) == 4:
    return 0, len(FACES) + number
  least, *rest = corners
  return least, FACES.index(tuple(c - least for c in rest))


def _tables():
  """By tetrahedron and case, of each triangle's three corners: owner and number of the vertex,
  owner and number of the edge of the mesh that begins there; -1 where there is no triangle."""
  table = np.full((len(TETRAHEDRA), 16, 2, 3, 4), -1)
  for number, tetrahedron in enumerate(TETRAHEDRA):
    for case in range(16):
      inside = [case >> bit & 1 for bit in range(4)]
      for which, triangle in enumerate(_triangles(tetrahedron, inside)):
        for k, (a, b) in enumerate(triangle):
          edge = _edge(number, triangle[k], triangle[(k + 1) % 3])
          table[number, case, which, k] = a, b - a - 1, *edge
  return table


TABLE = _tables()


def march(sdf: Float[Array, 'n n n'], nodes: Float[Array, 'n n n 3'], *, cubes: int) -> Mesh:
  """The surface between nodes inside, where sdf < 0, and outside, where what lies on the border of
  the grid counts as outside: it is closed. The vertex between p_a and p_b is
  (p_a s_b - p_b s_a) / (s_b - s_a).

  There is room for so many `cubes` that the surface meets; `dropped` says how many more there were.
  The Mesh has 7 vertices, 12 faces and 18 edges a cube, most of them in no use.
  """
  n = sdf.shape[0]
  inside = jnp.pad((sdf < 0.)[1:-1, 1:-1, 1:-1], 1)
  at_corner = jnp.stack([inside[x:n - 1 + x, y:n - 1 + y, z:n - 1 + z].reshape(-1)
                         for x, y, z in CORNERS], 1)
  mixed = jnp.any(at_corner, 1) & ~jnp.all(at_corner, 1)
  order = jnp.cumsum(mixed)
  slot = jnp.where(mixed, order - 1, cubes)                    # cubes and more: no room
  chosen = jnp.zeros(cubes, jnp.int32).at[slot].set(jnp.arange(mixed.size), mode='drop')
  there = jnp.arange(cubes) < order[-1]

  offset = jnp.array([(x * (n - 1) + y) * (n - 1) + z for x, y, z in CORNERS])
  beside = slot[jnp.minimum(chosen[:, None] + offset[None], mixed.size - 1)]             # [C 8]
  faces, edges = _connect(at_corner[chosen] & there[:, None], beside)
  valid = jnp.all(faces < cubes * DIRECTIONS, 1) & (faces[:, 0] >= 0)
  faces = jnp.where(valid[:, None], faces, 0)
  vertices = _cuts(sdf, nodes, inside, chosen)
  return Mesh(vertices, faces, valid, _half_edges(faces, valid, edges, cubes),
              jnp.maximum(order[-1] - cubes, 0))


def _connect(at_corner: Bool[Array, 'C 8'], beside: Int[Array, 'C 8']) -> tuple[
    Int[Array, 'F 3'], Int[Array, 'F 3']]:
  """Vertices of the faces, and edges of the mesh that begin at them: -1 where there is no face,
  beyond their number where a cube found no room."""
  corners = at_corner[:, np.array(TETRAHEDRA)]                                           # [C 6 4]
  case = jnp.sum(corners * (2 ** jnp.arange(4))[None, None], -1)
  rows = jnp.asarray(TABLE)[jnp.arange(len(TETRAHEDRA))[None], case]         # [C 6 2 3 4]
  cube = jnp.arange(len(beside))[:, None, None, None]
  def number(owner, local, each):
    return jnp.where(owner < 0, -1, beside[cube, jnp.maximum(owner, 0)] * each + local)
  return (number(rows[..., 0], rows[..., 1], DIRECTIONS).reshape(-1, 3),
          number(rows[..., 2], rows[..., 3], EDGES).reshape(-1, 3))


def _cuts(sdf, nodes, inside, chosen) -> Float[Array, 'N 3']:
  """The candidate vertices: of each chosen cube, on the edges from its corner 0."""
  n = sdf.shape[0]
  x, rest = chosen // (n - 1) ** 2, chosen % (n - 1) ** 2
  first = (x * n + rest // (n - 1)) * n + rest % (n - 1)
  step = jnp.array([(x * n + y) * n + z for x, y, z in CORNERS[1:]])
  a, b = first[:, None] + 0 * step[None], first[:, None] + step[None]                    # [C 7]
  at = lambda values: (values[a], values[b])
  (s_a, s_b), (p_a, p_b), (i_a, i_b) = map(at, (sdf.reshape(-1), nodes.reshape(-1, 3),
                                                inside.reshape(-1)))
  cut = i_a != i_b
  # on the border, and where both are 0, a sign that is no sign: the middle
  apart = cut & (jnp.abs(s_b - s_a) > 1e-9) & (s_a * s_b <= 0.)
  t = jnp.where(apart, s_a / jnp.where(apart, s_a - s_b, 1.), .5)[..., None]
  return (p_a + t * (p_b - p_a)).reshape(-1, 3)


def _half_edges(faces, valid, edges, cubes) -> Int[Array, 'E 2']:
  """Mesh.edges: of the two half-edges of an edge, which run against each other, one begins at the
  lesser vertex."""
  falls = (faces > jnp.roll(faces, -1, 1)).astype(jnp.int32)
  place = jnp.where(valid[:, None], 2 * edges + falls, 2 * EDGES * cubes)
  half = jnp.arange(faces.size)
  return jnp.full(2 * EDGES * cubes, -1, jnp.int32).at[place.reshape(-1)].set(
    half, mode='drop').reshape(-1, 2)
