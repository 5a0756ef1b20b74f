"""Discs, a prior of one's own: images of one colored disc on white, whose score is a formula.

  python -m jaxdreamer.train --config=examples/discs.py --config.prompt='a red ball'

No network and no weights to download: the best prediction over a finite set of images is a softmax
of their distances to the noisy one. What looks like a disc from everywhere is a ball.
"""
import jax
import jax.numpy as jnp

from jaxdreamer.configs import toybox
from jaxdreamer.diffusion import bcast, cosine, eps_from_x0
from jaxdreamer.types import Prior, Text

COLORS = {'red': (.85, .1, .1), 'green': (.1, .65, .2), 'blue': (.1, .25, .85)}


def pictures(*, size, count):
  """[colors * count, size, size, 3] in [-1, 1]: of each color discs of `count` radii."""
  at = (jnp.arange(size) + .5) / size * 2. - 1.
  distance = jnp.hypot(at[:, None], at[None])
  radii = jnp.linspace(.3, .7, count)
  mask = jax.nn.sigmoid((radii[:, None, None] - distance[None]) * size)[..., None]
  return 2. * jnp.concatenate([1. - mask * (1. - jnp.asarray(rgb)[None, None, None])
                               for rgb in COLORS.values()]) - 1.


def discs(*, size=32, count=9):
  """Of COLORS and `count` radii, at `size` pixels. A row of text is the probability of each color:
  one for a prompt that names it, all alike for the empty one."""
  schedule, latent = cosine(), (size, size, 3)

  def eps(weights, z_t, t, text, camera):
    alpha, sigma = (bcast(v, z_t) for v in (schedule.alpha(t), schedule.sigma(t)))
    images = weights['images']
    square = jnp.sum((z_t[:, None] - alpha[:, None] * images[None]) ** 2, (2, 3, 4))
    likely = jnp.log(jnp.repeat(text[:, 0], count, 1) + 1e-30)
    share = jax.nn.softmax(likely - .5 * square / bcast(sigma.ravel(), square) ** 2)
    return eps_from_x0(jnp.einsum('nk,k...->n...', share, images), z_t, alpha, sigma)

  def row(phrase):                              # [L = 1, D = colors]
    named = jnp.asarray([color in phrase.split() for color in COLORS], jnp.float32)
    return jnp.where(named.any(), named, jnp.ones_like(named))[None] / max(named.sum(), 1.)

  def embed(weights, prompt, negative=''):
    if not set(COLORS) & set(prompt.split()):
      raise ValueError(f'config.prompt={prompt!r}: name one of {", ".join(COLORS)}')
    plain = row(prompt)
    return Text(views=jnp.stack([plain] * 4), plain=plain, null=row(''), negative=row(negative))

  encode = lambda weights, x: 2. * x - 1.
  decode = lambda weights, z: .5 * z + .5
  return Prior({'images': pictures(size=size, count=count)}, schedule, size, latent, encode, decode,
               eps, embed)


def get_config():
  config = toybox.get_config()
  config.prompt = 'a red ball'
  config.prior.name = 'discs:discs'
  config.render.background = 'white'            # that of the pictures
  return config
