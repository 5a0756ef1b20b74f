"""Scene x rays -> Rendering: sampling, field, compositing, shading; chunks and rematerialization
are here and nowhere else.

A ray is sampled only inside the ball of `radius` around 0, from the eye on where that is inside;
rays that miss have opacity 0 and show the background.
`field` is scene.field with its code bound, `distance` and `clearness` the scene's likewise, or
None;
`background` maps a unit direction [3] to a color [3].
The full record always comes back: what the caller does not use (normals above all) the compiler
drops, provided that the function under jit, or under jax.vjp, does not return it.
"""
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdreamer import cameras, volume
from jaxdreamer.scenes import fields
from jaxdreamer.types import Camera, Rays, Rendering, Shade, Sky

FAINT = .01                     # the opacity of a ray that is worth a word where it is left out
ANY = 3  # what a picture's key is folded with to choose among rays that meet nothing
SLOPES = 4  # the distance's slope is asked at one sample of so many: it costs four distances


class Light(NamedTuple):
  """DreamFusion's shading: rho (ambient + diffuse max(0, n . l)), with rho = 1 where textureless =
  1; where `normals` = 1, the normal as a color, (1 + n) / 2."""
  position: Float[Array, '3']
  ambient: Float[Array, '']
  diffuse: Float[Array, '']
  textureless: Float[Array, '']        # 0 or 1
  normals: Float[Array, ''] | None = None                      # 0 or 1; None: no view shows them


def sample_light(key: Key[Array, ''], camera: Camera, *, shaded: Float[Array, ''] | float = .75,
                 textureless: Float[Array, ''] | float = .5,
                 distance: tuple[float, float] = (.8, 1.5), relative: bool = True,
                 jitter: float = 1., normals: bool = False) -> Light:
  """DreamFusion A.2: direction ~ N(camera position, jitter^2 I); albedo with 1 - `shaded`.

  Args:
    distance: range of the lamp's distance.
    relative: True: in parts of the camera's distance.
    jitter: standard deviation of the lamp's direction around the camera's.
    normals: True: textureless views show the normals as colors (CSD's released code).
  """
  k_direction, k_distance, k_shaded, k_textureless = jax.random.split(key, 4)
  position = camera.world_from_camera[:3, 3]
  direction = cameras.normalize(position + jitter * jax.random.normal(k_direction, (3,)))
  far = jax.random.uniform(k_distance, (), minval=distance[0],
                           maxval=distance[1]) * (camera.distance if relative else 1.)
  lit = jax.random.bernoulli(k_shaded, shaded).astype(jnp.float32)
  plain = lit * jax.random.bernoulli(k_textureless, textureless).astype(jnp.float32)
  return Light(far * direction, 1. - .9 * lit, .9 * lit, plain, plain if normals else None)


def unlit(albedo: Float[Array, '3'], normal: Float[Array, '3'],
          xyz: Float[Array, '3']) -> Float[Array, '3']:
  """The albedo, whatever the light."""
  return albedo


def normal_color(albedo: Float[Array, '3'], normal: Float[Array, '3'],
                 xyz: Float[Array, '3']) -> Float[Array, '3']:
  """The normal as a color, (1 + n) / 2, in the world's frame, as threestudio shows a mesh to its
  prior."""
  return .5 + .5 * normal


def lit(light: Light, albedo: Float[Array, '3'], normal: Float[Array, '3'],
          xyz: Float[Array, '3']) -> Float[Array, '3']:
  """The color of one point under a lamp."""
  toward = cameras.normalize(light.position - xyz)
  rho = light.textureless + (1. - light.textureless) * albedo
  seen = rho * (light.ambient + light.diffuse * jnp.maximum(jnp.sum(normal * toward), 0.))
  return seen if light.normals is None else jnp.where(
    light.normals > 0., normal_color(albedo, normal, xyz), seen)


def edges(ray: Rays, n: int, *, radius: float, disparity: bool) -> Float[Array, 'E']:
  """Distances that cut what a ray sees of the ball into n intervals."""
  near, far = volume.ball_interval(ray.origin, ray.direction, radius)
  return volume.spaced(near, far, jnp.linspace(0., 1., n + 1), disparity=disparity)


def along(ray: Rays, dist: Float[Array, 'n']) -> Float[Array, '3 n']:
  """The points of a ray."""
  return ray.origin[:, None] + ray.direction[:, None] * dist[None]


def weigh(density: Float[Array, 'S'], ray: Rays, dist: Float[Array, 'S+1'],
          clearness: fields.Signed | None) -> tuple[Float[Array, 'S'], Float[Array, '']]:
  """Weights and final transmittance of a ray's intervals."""
  return (volume.fall_weights(jax.vmap(clearness, 1)(along(ray, dist))) if clearness
          else volume.alpha_weights(density, dist))


def propose(field: fields.Colored, ray: Rays, u: Float[Array, 'S'], *, n: int, radius: float,
            clearness: fields.Signed | None,
            disparity: bool) -> tuple[Float[Array, 'E'], Float[Array, '']]:
  """The edges of n intervals of about equal weight, and the opacity, by S samples of the density
  alone, one in each of S equal intervals where u places it; no gradient goes through them."""
  dist = edges(ray, u.size, radius=radius, disparity=disparity)
  near, far = dist[0], dist[-1]
  placed = volume.spaced(near, far, u, disparity=disparity)
  density, _ = jax.vmap(field, 1)(along(ray, placed))
  weights, trans = weigh(density, ray, dist, clearness)
  cut = volume.invert_cdf(jnp.linspace(0., 1., n + 1), dist,
                          volume.spread(weights, dist, share=.25))
  return jax.lax.stop_gradient((cut, 1. - trans))


def trace(field: fields.Colored, ray: Rays, u: Float[Array, 'S'], dist: Float[Array, 'S+1'], *,
          radius: float, background: Sky, shade: Shade, normals: fields.Normals,
          distance: fields.Signed | None, clearness: fields.Signed | None) -> Rendering:
  """One ray, asked once in each interval between the edges `dist`, where u places it."""
  xyz = along(ray, in_strata(u, dist))
  density, features, normal = jax.vmap(partial(normals, field), 1, (0, 1, 1))(xyz)
  weights, trans = weigh(density, ray, dist, clearness)
  color = jax.vmap(shade, 1, 1)(features[:3], normal, xyz)
  depth = volume.expected_depth(weights, dist, fields.length(ray.origin) + radius)
  away = jnp.maximum(jnp.sum(normal * ray.direction[:, None], 0), 0.)
  return Rendering(
    rgb=volume.composite(weights, color) + trans * background(ray.direction),
    opacity=1. - trans,
    depth=depth,
    normal=volume.composite(weights, normal),
    orientation=volume.composite(jax.lax.stop_gradient(weights), away ** 2),
    distortion=volume.distortion(weights, dist / (2. * radius)),
    z_variance=volume.composite(weights, (volume.midpoints(dist) - depth) ** 2),
    eikonal=jnp.mean(jax.vmap(partial(fields.eikonal, distance), 1)(xyz[:, ::SLOPES])) if distance
    else jnp.zeros(()))


def in_strata(u: Float[Array, 'S'], dist: Float[Array, 'S+1']) -> Float[Array, 'S']:
  """A distance in each interval, at the place that u has in its own stratum of [0, 1]."""
  return dist[:-1] + jnp.diff(dist) * (u * u.size - jnp.arange(u.size))


def nothing(ray: Rays, *, radius: float, background: Sky) -> Rendering:
  """What a ray shows that meets nothing."""
  zero = jnp.zeros(())
  return Rendering(rgb=background(ray.direction), opacity=zero,
                   depth=fields.length(ray.origin) + radius, normal=jnp.zeros(3), orientation=zero,
                   distortion=zero, z_variance=zero, eikonal=zero)


def fullest(key: Key[Array, ''], opacity: Float[Array, 'H W'],
            room: int) -> tuple[Int[Array, 'room'], Float[Array, '']]:
  """The pixels for which there is `room`, those of most opacity in themselves or a neighbor before
  others, and of nothing any; and how many of more than FAINT there were beyond."""
  around = jax.lax.reduce_window(opacity, 0., jax.lax.max, (3, 3), (1, 1), 'SAME').ravel()
  any_of_none = 1e-6 * jax.random.uniform(key, around.shape)
  _, chosen = jax.lax.top_k(around + any_of_none, room)
  return chosen, jnp.sum(around > FAINT, dtype=jnp.float32) - jnp.sum(around[chosen] > FAINT)


def white(direction: Float[Array, '3']) -> Float[Array, '3']:
  """The background [3] of every direction: white."""
  return jnp.ones(3)


def image(key: Key[Array, ''], field: fields.Colored, camera: Camera, *, size: int, samples: int,
          fine: int = 0, radius: float = 1., jitter: float = 1., background: Sky = white,
          shade: Shade = unlit, normals: fields.Normals = fields.gradient_normals,
          distance: fields.Signed | None = None, clearness: fields.Signed | None = None,
          disparity: bool = False, room: float = 1., chunk: int | None = None,
          remat: bool = False) -> Rendering:
  """The [size, size] Rendering of one camera; vmap over cameras, keys and lights. `jitter` = 0
  makes it deterministic.

  Of each ray `samples` are asked; where `fine` > 0 they only propose where so many are asked that
  have a gradient, and these of the share `room` of all rays alone, the `fullest` by what proposed
  them: the others show the background, and `dropped` tells how many of them should not.
  `shade` is unlit, lit by a Light, or normal_color; `disparity` places samples as volume.spaced
  does. `chunk` rays at a time bounds memory; `remat` recomputes a ray (a chunk) in the backward
  pass.
  """
  k_coarse, k_fine = jax.random.split(key)
  rays = jax.tree.map(lambda a: a.reshape(size * size, 3), cameras.rays(camera, size))

  def uniforms(k, n):
    return jax.vmap(partial(volume.stratified, n=n, jitter=jitter))(
        jax.random.split(k, size * size))

  def each(one, *args):
    return jax.vmap(one)(*args) if chunk is None else jax.lax.map(lambda a: one(*a), args,
                                                                  batch_size=chunk)
  one = partial(trace, field, radius=radius, background=background, shade=shade, normals=normals,
                distance=distance, clearness=clearness)
  one = jax.checkpoint(one) if remat else one
  u = uniforms(k_fine if fine else k_coarse, fine or samples)
  if fine:
    dist, opacity = each(partial(propose, field, n=fine, radius=radius, clearness=clearness,
                                 disparity=disparity), rays, uniforms(k_coarse, samples))
  else:
    dist = jax.vmap(lambda ray: edges(ray, samples, radius=radius, disparity=disparity))(rays)
  if not fine or room == 1.:
    return jax.tree.map(lambda a: a.reshape(size, size, *a.shape[1:]), each(one, rays, u, dist))
  chosen, dropped = fullest(jax.random.fold_in(key, ANY), opacity.reshape(size, size),
                            math.ceil(room * size * size))
  some = each(one, *jax.tree.map(lambda a: a[chosen], (rays, u, dist)))
  rest = jax.vmap(partial(nothing, radius=radius, background=background))(rays)
  # of what is a mean over rays, the others are no part
  rest = rest._replace(eikonal=jnp.full(size * size, jnp.mean(some.eikonal)))
  out = jax.tree.map(lambda a, b: a.at[chosen].set(b, unique_indices=True).reshape(
    size, size, *a.shape[1:]), rest, some)
  return out._replace(dropped=dropped)
