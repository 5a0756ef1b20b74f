"""The shipped prior: the toybox world's diffusion model, from a file in the published key
layout."""
import pathlib
from functools import partial
from typing import Callable

import jax
import numpy as np
from jaxtyping import PyTree

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
  """
  like = jax.eval_shape(network.init, jax.random.key(0))
  weights = safetensors_io.load(path or str(SHIPPED), like)

  def eps(weights, z_t, t, text, where):
    return network.eps(weights, z_t, t, text, where if camera else None)

  def encode(weights, x):
    return network.encode(jax.image.resize(x, (len(x), network.SIZE, network.SIZE, 3), 'bilinear'))

  return Prior(weights, network.SCHEDULE, network.SIZE, network.LATENT, encode,
               lambda w, z: network.decode(z), eps, embed,
               predicted='sample')


def embed(weights: PyTree, prompt: str, negative: str) -> Text:
  """A prompt by the text encoder in `weights`. ValueError for one outside the toybox vocabulary
  names the nearest words."""
  world.parse(prompt)
  phrases = [*prompts.view_prompts(prompt), prompt, '', negative]
  rows = jax.jit(network.embed)(weights, np.stack([world.tokenize(p) for p in phrases]))
  return Text(views=rows[:4], plain=rows[4], null=rows[5], negative=rows[6], pooled=rows[4, 0])


def reader(*, path: str = '') -> Callable[[str, str], Text]:
  """(prompt, negative) -> what `toybox` embeds it as, of the text encoder alone, which is there
  in a third of the time. Errors as toybox's."""
  like = jax.eval_shape(network.init_text, jax.random.key(0))
  weights = safetensors_io.load(path or str(SHIPPED), like, rename=((r'^unet\.', None),))
  return partial(embed, weights)
