"""The exact posterior mean over a finite set of images of the prompt: the perfect prior of that
set.

It separates a prior's faults from an estimator's: with it, what is wrong in the result is the
estimator's or the scene's.
Images carry their camera; where one is given, each image weighs by how near its viewpoint is.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.diffusion import bcast, eps_from_x0
from jaxdreamer.toybox import network, views, world
from jaxdreamer.types import Camera, Prior, Text


def posterior_mean(z_t: Float[Array, 'd'], images: Float[Array, 'N d'],
                   log_prior: Float[Array, 'N'], alpha, sigma):
  """E[z | z_t] for z uniform over `images` tilted by log_prior: a softmax of -|z_t - alpha z|^2 / 2
  sigma^2."""
  distance = jnp.sum(images ** 2, -1) * alpha ** 2 - 2. * alpha * images @ z_t  # |z_t|^2 cancels
  return jax.nn.softmax(log_prior - distance / (2. * sigma ** 2)) @ images


def empirical(key: Key[Array, ''], prompt: str, *, images: int = 512,
              bandwidth: float = .15) -> Prior:
  """Renders of a toybox caption (ValueError outside its vocabulary), each over black and over
  white: no toy hides from both (Smith and Blinn 1996, Blue Screen Matting). Render the scene over
  `backgrounds.black_or_white()`. Text rows are ignored: the null prediction equals the conditional
  one, and guidance changes nothing.

  Args:
    images: how many renders.
    bandwidth: standard deviation, in scene units, of the kernel on camera positions.
  """
  item = world.parse(prompt)
  spots = jax.vmap(views.sample_camera)(jax.random.split(key, images))
  light = views.LIGHT
  def one(camera):
    view = views.render(item, camera, light, size=network.SIZE, supersample=2)
    return jnp.stack([view.rgb, view.rgb + 1. - view.mask[..., None]])
  pictures = jax.jit(lambda s: jax.lax.map(one, s))(spots)         # [images, 2, H, W, 3]
  weights = {'images': jax.vmap(network.encode)(pictures).reshape(2 * images, -1),
             'position': jnp.repeat(spots.world_from_camera[:, :3, 3], 2, 0)}

  def eps(weights, z_t, t, text, camera: Camera | None):
    alpha, sigma = network.SCHEDULE.alpha(t), network.SCHEDULE.sigma(t)
    def of(z, a, s, position):
      far = jnp.zeros(len(weights['images'])) if position is None else jnp.sum(
          (weights['position'] - position[None]) ** 2, -1)
      return posterior_mean(z.reshape(-1), weights['images'], -far / (2. * bandwidth ** 2), a,
                            s).reshape(z.shape)
    where = None if camera is None else camera.world_from_camera[:, :3, 3]
    x0_hat = jax.vmap(of, (0, 0, 0, None if camera is None else 0))(z_t, alpha, sigma, where)
    return eps_from_x0(x0_hat, z_t, bcast(alpha, z_t), bcast(sigma, z_t))

  def embed(weights, prompt, negative=''):
    blank = jnp.zeros((1, 1))
    return Text(jnp.zeros((4, 1, 1)), blank, blank, blank)

  return Prior(weights, network.SCHEDULE, network.SIZE, network.LATENT,
               lambda w, x: network.encode(x),
               lambda w, z: network.decode(z), eps, embed)
