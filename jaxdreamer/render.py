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
from jaxtyping import Array, Bool, Float, Key

from jaxdreamer import cameras, occupancy, volume
from jaxdreamer.scenes import fields
from jaxdreamer.types import Camera, Rays, Rendering, Shade, Sky

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


def trace(field: fields.Colored, ray: Rays, u: Float[Array, 'S'], u_fine: Float[Array, 'N'], *,
          radius: float, background: Sky, shade: Shade, normals: fields.Normals,
          distance: fields.Signed | None, clearness: fields.Signed | None,
          disparity: bool) -> Rendering:
  """One ray. u places a sample in each of S equal intervals. Where N > 0 those only propose
  (without gradient, density alone) N intervals of equal weight, which u_fine samples."""
  near, far = volume.ball_interval(ray.origin, ray.direction, radius)
  along = lambda dist: ray.origin[:, None] + ray.direction[:, None] * dist[None]  # [3, S]
  spaced = partial(volume.spaced, near, far, disparity=disparity)
  weigh = (lambda density, dist: volume.fall_weights(jax.vmap(clearness, 1)(along(dist)))
           if clearness else volume.alpha_weights(density, dist))
  dist = spaced(jnp.linspace(0., 1., u.size + 1))
  if u_fine.size:
    density, _ = jax.vmap(field, 1)(along(spaced(u)))
    weights, _ = weigh(density, dist)
    dist = volume.invert_cdf(jnp.linspace(0., 1., u_fine.size + 1), dist,
                             volume.spread(weights, dist, share=.25))
    dist, u = jax.lax.stop_gradient(dist), u_fine
  xyz = along(in_strata(u, dist))
  density, features, normal = jax.vmap(partial(normals, field), 1, (0, 1, 1))(xyz)
  weights, trans = weigh(density, dist)
  color = jax.vmap(shade, 1, 1)(features[:3], normal, xyz)
  return seen(ray, xyz, dist, weights, trans, color, normal, radius=radius, background=background,
              distance=distance)


def in_strata(u: Float[Array, 'S'], dist: Float[Array, 'S+1']) -> Float[Array, 'S']:
  """A distance in each interval, at the place that u has in its own stratum of [0, 1]."""
  return dist[:-1] + jnp.diff(dist) * (u * u.size - jnp.arange(u.size))


def seen(ray: Rays, xyz: Float[Array, '3 S'], dist: Float[Array, 'S+1'],
         weights: Float[Array, 'S'], trans: Float[Array, ''], color: Float[Array, '3 S'],
         normal: Float[Array, '3 S'], *, radius: float, background: Sky,
         distance: fields.Signed | None = None) -> Rendering:
  """What one ray shows of its samples."""
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


def sparse(field: fields.Colored, rays: Rays, u: Float[Array, 'R S'], *,
           occupied: Bool[Array, 'n n n'], room: int, radius: float, background: Sky, shade: Shade,
           normals: fields.Normals, disparity: bool) -> Rendering:
  """What R rays show where only samples in `occupied` cells of space are asked, at most `room` of
  all, those near the eye before others; how many found none is `dropped`."""
  def placed(ray, u):
    near, far = volume.ball_interval(ray.origin, ray.direction, radius)
    dist = volume.spaced(near, far, jnp.linspace(0., 1., u.size + 1), disparity=disparity)
    return dist, ray.origin[:, None] + ray.direction[:, None] * in_strata(u, dist)[None]

  dist, xyz = jax.vmap(placed)(rays, u)                        # [R, S + 1], [R, 3, S]
  # the first samples of all rays, then the second, ...
  points = xyz.transpose(2, 0, 1).reshape(-1, 3)
  places, dropped = occupancy.chosen(occupancy.inside(occupied, points, radius=radius), room)

  def asked(xyz):
    density, features, normal = normals(field, xyz)
    return density, shade(features[:3], normal, xyz), normal

  def scattered(values):
    rows = jnp.zeros((len(points), *values.shape[1:])).at[places].set(
      values, mode='drop', unique_indices=True, indices_are_sorted=True)
    return jnp.moveaxis(rows.reshape(*u.T.shape, *values.shape[1:]), 0, -1)

  density, color, normal = map(scattered, jax.vmap(asked)(points.at[places].get(mode='clip')))

  def one(ray, dist, xyz, density, color, normal):
    return seen(ray, xyz, dist, *volume.alpha_weights(density, dist), color, normal, radius=radius,
                background=background)
  return jax.vmap(one)(rays, dist, xyz, density, color,
                       normal)._replace(dropped=dropped.astype(jnp.float32))


def white(direction: Float[Array, '3']) -> Float[Array, '3']:
  """The background [3] of every direction: white."""
  return jnp.ones(3)


def image(key: Key[Array, ''], field: fields.Colored, camera: Camera, *, size: int, samples: int,
          fine: int = 0, radius: float = 1., jitter: float = 1., background: Sky = white,
          shade: Shade = unlit, normals: fields.Normals = fields.gradient_normals,
          distance: fields.Signed | None = None, clearness: fields.Signed | None = None,
          disparity: bool = False, occupied: Bool[Array, 'n n n'] | None = None, room: float = 1.,
          chunk: int | None = None, remat: bool = False) -> Rendering:
  """The [size, size] Rendering of one camera; vmap over cameras, keys and lights. `jitter` = 0
  makes it deterministic.

  `shade` is unlit, lit by a Light, or normal_color; `disparity` places samples as volume.spaced
  does. With an occupancy.grid, `occupied`, the share `room` of all samples is asked at most, by
  `sparse`; that takes neither `fine` nor scenes of a distance. `chunk` rays at a time bounds
  memory; `remat` recomputes a ray (a chunk) in the backward pass.
  """
  k_coarse, k_fine = jax.random.split(key)
  def uniforms(k, n):
    return jax.vmap(partial(volume.stratified, n=n, jitter=jitter))(
        jax.random.split(k, size * size))
  rays = jax.tree.map(lambda a: a.reshape(size * size, 3), cameras.rays(camera, size))
  options = dict(radius=radius, background=background, shade=shade, normals=normals,
                 disparity=disparity)
  rematted = jax.checkpoint if remat else lambda f: f
  if occupied is not None:
    each = next(n for n in range(min(chunk or size * size, size * size), 0, -1)
                if size * size % n == 0)
    some = rematted(partial(sparse, field, occupied=occupied, room=math.ceil(room * each * samples),
                            **options))
    # each chunk of rays from all over the picture, so that all are about as full
    apart = jax.tree.map(lambda a: a.reshape(each, -1, *a.shape[1:]).swapaxes(0, 1),
                         (rays, uniforms(k_coarse, samples)))
    out = jax.lax.map(lambda a: some(*a), apart)
    dropped = jnp.sum(out.dropped)
    out = jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(size, size, *a.shape[2:]),
                       out._replace(dropped=None))
    return out._replace(dropped=dropped)
  one = rematted(partial(trace, field, distance=distance, clearness=clearness, **options))
  args = rays, uniforms(k_coarse, samples), uniforms(k_fine, fine)
  out = jax.vmap(one)(*args) if chunk is None else jax.lax.map(lambda a: one(*a), args,
                                                               batch_size=chunk)
  return jax.tree.map(lambda a: a.reshape(size, size, *a.shape[1:]), out)
