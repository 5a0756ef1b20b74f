"""Triangle meshes as arrays of fixed size, so that a step in which the surface changes compiles
once.

Half-edge h = 3 f + k runs from corner k of face f to the next; seen from outside a face turns
counter-clockwise, so the two half-edges of an edge run against each other. Rows that nothing uses
are there too: `valid` and -1 tell them.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Mesh(NamedTuple):
  vertices: Float[Array, 'N 3']
  faces: Int[Array, 'F 3']
  valid: Bool[Array, 'F']              # faces that there are
  edges: Int[Array, 'E 2']             # the half-edges of each edge, -1 for one that is missing
  dropped: Int[Array, '']              # parts of a surface that found no room


def of_arrays(vertices: Float[np.ndarray, 'N 3'], faces: Int[np.ndarray, 'F 3']) -> Mesh:
  """The Mesh of vertices and faces that are known beforehand; on the host, once. Of an edge of more
  than two faces, two count."""
  half = np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2)
  order = np.lexsort((half.max(1), half.min(1)))
  ends = np.sort(half[order], 1)
  first = np.append(True, (ends[1:] != ends[:-1]).any(1))
  second = np.append(~first[1:], False)
  edges = np.stack([order, np.where(second, np.roll(order, -1), -1)], 1)[first]
  return Mesh(jnp.asarray(vertices, jnp.float32), jnp.asarray(faces, jnp.int32),
              jnp.ones(len(faces), bool), jnp.asarray(edges, jnp.int32), jnp.int32(0))


def compact(mesh: Mesh) -> tuple[Float[np.ndarray, 'n 3'], Int[np.ndarray, 'f 3']]:
  """The vertices and faces that are in use; on the host."""
  faces = np.asarray(mesh.faces)[np.asarray(mesh.valid)]
  used, faces = np.unique(faces, return_inverse=True)
  return np.asarray(mesh.vertices)[used], faces.reshape(-1, 3)


def cross(a: Float[Array, '*b 3'], b: Float[Array, '*b 3']) -> Float[Array, '*b 3']:
  """a x b, written out: jnp.cross moves axes."""
  (a0, a1, a2), (b0, b1, b2) = jnp.moveaxis(a, -1, 0), jnp.moveaxis(b, -1, 0)
  return jnp.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], -1)


def unit(v: Float[Array, '*b 3']) -> Float[Array, '*b 3']:
  """v over its length; 0 stays 0, with a finite slope. Face normals of a fine mesh are short: the
  bound is far below their squares."""
  return v * jax.lax.rsqrt(jnp.maximum(jnp.sum(v * v, -1, keepdims=True), 1e-24))


def face_normals(mesh: Mesh) -> Float[Array, 'F 3']:
  """(b - a) x (c - a): outward, twice as long as the face is large; 0 where there is no face."""
  a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
  return jnp.where(mesh.valid[:, None], cross(b - a, c - a), 0.)


def vertex_normals(mesh: Mesh) -> Float[Array, 'N 3']:
  """Unit normals of the vertices: the mean of their faces', weighed by area."""
  normals = face_normals(mesh)
  total = jnp.zeros_like(mesh.vertices)
  for k in range(3):
    total = total.at[mesh.faces[:, k]].add(normals)
  return unit(total)


def _edge_ends(mesh: Mesh) -> tuple[Int[Array, 'E 2'], Bool[Array, 'E']]:
  """The vertices of each edge, and whether it is one."""
  half = jnp.max(mesh.edges, 1)
  face, corner = jnp.maximum(half, 0) // 3, jnp.maximum(half, 0) % 3
  return jnp.stack([mesh.faces[face, corner], mesh.faces[face, (corner + 1) % 3]], 1), half >= 0


def normal_consistency(mesh: Mesh) -> Float[Array, '']:
  """Mean over the edges of 1 - cos of the angle between the normals of their two vertices
  (threestudio, DMTet's geometry stage)."""
  ends, there = _edge_ends(mesh)
  normals = vertex_normals(mesh)
  bend = 1. - jnp.sum(normals[ends[:, 0]] * normals[ends[:, 1]], -1)
  return jnp.sum(jnp.where(there, bend, 0.)) / jnp.maximum(jnp.sum(there), 1)


def laplacian(mesh: Mesh) -> Float[Array, '']:
  """Mean over the vertices in use of |sum over neighbors j of (v_i - v_j)|, the uniform Laplacian
  without division by their number (threestudio)."""
  ends, there = _edge_ends(mesh)
  a, b = ends[:, 0], ends[:, 1]
  apart = jnp.where(there[:, None], mesh.vertices[a] - mesh.vertices[b], 0.)
  total = jnp.zeros_like(mesh.vertices).at[a].add(apart).at[b].add(-apart)
  used = jnp.zeros(len(mesh.vertices), bool).at[ends].max(there[:, None] & jnp.ones((1, 2), bool))
  size = jnp.sqrt(jnp.maximum(jnp.sum(total ** 2, -1), 1e-16))
  return jnp.sum(jnp.where(used, size, 0.)) / jnp.maximum(jnp.sum(used), 1)
