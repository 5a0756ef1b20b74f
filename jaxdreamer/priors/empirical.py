"""The exact posterior mean over a set of images of the prompt: the perfect prior of that set.

It separates a prior's faults from an estimator's: with it, what is wrong in the result is the
estimator's or the scene's.
Images carry their camera; where one is given, each image weighs by how near its viewpoint is and,
in a room, whether it looks the same way. Or they are drawn at the very camera that is given, which
is where ever more images and an ever narrower kernel lead to.
"""
import math
from typing import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.diffusion import bcast, eps_from_x0
from jaxdreamer.toybox import network, rooms, views, world
from jaxdreamer.types import Camera, Prior, Text

TURN = rooms.HALF                # scene units that a turn by one radian, in a room, counts as


def posterior_mean(z_t: Float[Array, 'd'], images: Float[Array, 'N d'],
                   log_prior: Float[Array, 'N'], alpha, sigma):
  """E[z | z_t] for z uniform over `images` tilted by log_prior: a softmax of -|z_t - alpha z|^2 / 2
  sigma^2."""
  distance = jnp.sum(images ** 2, -1) * alpha ** 2 - 2. * alpha * images @ z_t  # |z_t|^2 cancels
  return jax.nn.softmax(log_prior - distance / (2. * sigma ** 2)) @ images


def pictures_of(prompt: str, kind: str) -> tuple[Callable[[Array], Camera],
                                       Callable[[Camera], Float[Array, 'K H W 3']]]:
  """(key -> a camera, a camera -> its pictures): of a toy one over black and one over white, of a
  room the one there is; by `kind` their colors or, as render.normal_color's, their normals.
  ValueError outside of the toybox's vocabulary."""
  def premultiplied(view):
    return view.rgb if kind == 'color' else view.mask[..., None] * (.5 + .5 * view.normal)
  if rooms.is_room(prompt):
    room = rooms.parse(prompt)
    return rooms.sample_camera, lambda camera: premultiplied(rooms.render(
      room, camera, size=network.SIZE, supersample=2))[None]
  item = world.parse(prompt)
  def both(camera):
    view = views.render(item, camera, views.LIGHT, size=network.SIZE, supersample=2)
    seen = premultiplied(view)
    return jnp.stack([seen, seen + 1. - view.mask[..., None]])
  return views.sample_camera, both


def stand(camera: Camera, *, turns: bool) -> Float[Array, '*V d']:
  """The coordinates of cameras in which those of similar pictures are near: their position and,
  where one `turns` on the spot, TURN times the direction that they look in."""
  position, backward = (camera.world_from_camera[..., :3, k] for k in (3, 2))
  return jnp.concatenate([position, TURN * backward], -1) if turns else position


def empirical(key: Key[Array, ''], prompt: str, kind: str, *, images: int = 512,
              bandwidth: float = .15) -> Prior:
  """Renders of a toybox caption (ValueError outside its vocabulary): of a toy each over black and
  over white, for no toy hides from both (Smith and Blinn 1996, Blue Screen Matting). Render the
  scene over `backgrounds.black_or_white()`. Of a room, from inside. Text rows are ignored: the null
  prediction equals the conditional one, and guidance changes nothing. `kind` is config.render.kind:
  they show what the scene's renders show.

  Args:
    images: how many renders; 0: at each step those of its own cameras.
    bandwidth: standard deviation, in scene units, of the kernel on cameras.
  """
  sample_camera, draw = pictures_of(prompt, kind)
  turns, patches = rooms.is_room(prompt), lambda x: network.encode(x).reshape(len(x), -1)
  weights = {}
  if images:
    spots = jax.vmap(sample_camera)(jax.random.split(key, images))
    pictures = jax.jit(lambda s: jax.lax.map(draw, s))(spots)      # [images, K, H, W, 3]
    weights = {'images': jax.vmap(patches)(pictures).reshape(-1, math.prod(network.LATENT)),
               'position': jnp.repeat(stand(spots, turns=turns), pictures.shape[1], 0)}

  def known(weights, camera, count):
    """Images, and the log of their weights up to a constant, of each of `count` views."""
    if not images and camera is None:
      raise ValueError('config.prior.empirical.images=0: takes an estimator that tells the prior '
                       'its cameras')
    if not images:
      rows = jax.vmap(patches)(jax.lax.map(draw, camera))
      return rows, jnp.zeros(rows.shape[:2])
    far = jnp.zeros((count, len(weights['images'])))
    if camera is not None:
      offset = stand(camera, turns=turns)[:, None] - weights['position'][None]
      far = jnp.sum(offset ** 2, -1)
    return weights['images'], -far / (2. * bandwidth ** 2)

  def eps(weights, z_t, t, text, camera: Camera | None):
    alpha, sigma = network.SCHEDULE.alpha(t), network.SCHEDULE.sigma(t)
    rows, log_prior = known(weights, camera, len(z_t))
    each = (0, 0 if rows.ndim == 3 else None, 0, 0, 0)
    x0_hat = jax.vmap(posterior_mean, each)(z_t.reshape(len(z_t), -1), rows, log_prior, alpha,
                                            sigma).reshape(z_t.shape)
    return eps_from_x0(x0_hat, z_t, bcast(alpha, z_t), bcast(sigma, z_t))

  def embed(weights, prompt, negative=''):
    blank = jnp.zeros((1, 1))
    return Text(jnp.zeros((4, 1, 1)), blank, blank, blank)

  return Prior(weights, network.SCHEDULE, network.SIZE, network.LATENT,
               lambda w, x: network.encode(x),
               lambda w, z: network.decode(z), eps, embed)
