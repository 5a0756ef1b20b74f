"""The shipped prior: the toybox world's diffusion model, from a file in the published key
layout."""
import pathlib

import jax
import jax.numpy as jnp

from jaxdreamer import prompts
from jaxdreamer.toybox import network, world
from jaxdreamer.types import Prior, Text
from jaxdreamer.weights import safetensors_io

SHIPPED = pathlib.Path(__file__).parent.parent / 'assets' / 'prior.safetensors'


def toybox(*, path: str = '', camera: bool = True) -> Prior:
  """`path` '' is the shipped file. Renders of another size are brought to the network's.

  Args:
    camera: False hides the camera from the network: view words alone tell the view.

  FileNotFoundError or ValueError, one line, where the file is missing or not this network's.
  `embed` raises ValueError for a prompt outside the toybox vocabulary, and names the nearest words.
  """
  like = jax.eval_shape(network.init, jax.random.key(0))
  weights = safetensors_io.load(path or str(SHIPPED), like)

  def eps(weights, z_t, t, text, where):
    return network.eps(weights, z_t, t, text, where if camera else None)

  def embed(weights, prompt, negative=''):
    world.parse(prompt)
    phrases = [*prompts.view_prompts(prompt), prompt, '', negative]
    ids = jnp.stack([jnp.asarray(world.tokenize(p)) for p in phrases])
    rows = jax.jit(network.embed)(weights, ids)
    return Text(views=rows[:4], plain=rows[4], null=rows[5], negative=rows[6], pooled=rows[4, 0])

  def encode(weights, x):
    return network.encode(jax.image.resize(x, (len(x), network.SIZE, network.SIZE, 3), 'bilinear'))

  return Prior(weights, network.SCHEDULE, network.SIZE, network.LATENT, encode,
               lambda w, z: network.decode(z), eps, embed,
               predicted='sample')
