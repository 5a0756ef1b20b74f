"""A mesh x one camera -> Rendering, as render.image makes it of a field: the nearest surface alone,
fully opaque, with antialiased silhouettes.

Gradients reach the vertices inside by where a ray meets its face, by the normal, and by the color
there; at silhouettes by antialiasing.py.
"""
from typing import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdreamer import cameras
from jaxdreamer.meshes import antialiasing, rasterizer, topology
from jaxdreamer.meshes.topology import Mesh
from jaxdreamer.types import Camera, Rendering

LAYERS = 8                             # pictures full of faces that there is room for
OUTLINES = 32                          # crossings of outlines and pixel rows, a row of pixels


def hits(mesh: Mesh, rays, face):
  """Where each ray [H, W] meets the plane of its face: distance [H, W] and the barycentric
  coordinates [H, W, 3] of the point. Where there is no face, numbers without meaning."""
  corners = mesh.vertices[mesh.faces[jnp.maximum(face, 0)]] - rays.origin[..., None, :]
  a, b, c = (corners[..., k, :] for k in range(3))
  normal = topology.cross(b - a, c - a)
  dot = lambda u, v: jnp.sum(u * v, -1)
  facing = dot(normal, rays.direction)
  hit = (face >= 0) & (jnp.abs(facing) > 1e-20)
  distance = jnp.where(hit, dot(normal, a), 0.) / jnp.where(hit, facing, 1.)
  point = distance[..., None] * rays.direction
  square = jnp.where(hit, dot(normal, normal), 1.)
  of_b = dot(topology.cross(point - a, c - a), normal) / jnp.maximum(square, 1e-30)
  of_c = dot(topology.cross(b - a, point - a), normal) / jnp.maximum(square, 1e-30)
  return distance, jnp.stack([1. - of_b - of_c, of_b, of_c], -1)


def image(mesh: Mesh, color: Callable[[Array], Array], camera: Camera, *, size: int,
          background: Callable[[Array], Array], shade: Callable[..., Array],
          radius: float = 1., layers: int = LAYERS, lines: int = 0) -> Rendering:
  """The [size, size] Rendering of one camera; vmap over cameras.

  `color` maps a point xyz [3] to its albedo [3], `background` a direction [3] to a color, `shade`
  (albedo, normal, xyz) to what is seen. Empty pixels are as deep as the far side of the ball of
  `radius`. There is room for `layers` of faces over one another, and for `lines` of them side by
  side, or as many as the layers have pixels in a column.
  """
  rays = cameras.rays(camera, size)
  screen = rasterizer.project(mesh.vertices, camera, size)
  face, far, crowded = rasterizer.visible(jax.lax.stop_gradient(screen), mesh.faces, mesh.valid,
                                          size=size, layers=layers,
                                          rows=max(layers * size, lines) * size)
  distance, weights = hits(mesh, rays, face)
  normals = topology.vertex_normals(mesh)[mesh.faces[jnp.maximum(face, 0)]]
  normal = topology.unit(jnp.sum(weights[..., None] * normals, -2))
  xyz = rays.origin + distance[..., None] * rays.direction
  over = lambda f: jax.vmap(jax.vmap(f))
  hit = (face >= 0)[..., None]
  seen = over(shade)(over(color)(xyz), normal, xyz)
  layers = jnp.concatenate([jnp.where(hit, seen, over(background)(rays.direction)),
                            hit.astype(jnp.float32), jnp.where(hit, normal, 0.),
                            jnp.where(hit, distance[..., None], 0.)], -1)
  # as far as the limb of a ball of `radius` falls away within a pixel
  pixel = 2. * jnp.tan(.5 * camera.fov) * camera.distance / size
  layers, lost = antialiasing.antialias(layers, far, screen, mesh, capacity=OUTLINES * size,
                                        slack=jnp.sqrt(2. * radius * pixel) + pixel)
  opacity, zero = layers[..., 3], jnp.zeros((size, size))
  beyond = jnp.sqrt(jnp.sum(rays.origin ** 2, -1)) + radius
  rest = 1e-2 * (1. - opacity)                   # as volume.expected_depth weighs what is not hit
  return Rendering(rgb=layers[..., :3], opacity=opacity,
                   depth=(layers[..., 7] + rest * beyond) / jnp.maximum(opacity + rest, 1e-2),
                   normal=layers[..., 4:7],
                   orientation=zero, distortion=zero, z_variance=zero, eikonal=jnp.zeros(()),
                   normal_consistency=topology.normal_consistency(mesh),
                   laplacian=topology.laplacian(mesh),
                   dropped=(mesh.dropped + crowded + lost).astype(jnp.float32))
