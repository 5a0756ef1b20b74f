"""Runs that learn to restore pictures (scenes/restoration.py), in what they are not as all others:
their scene adapts the prior, each step brings pairs of pictures with the prompt, and a preview
shows low, restored and true pictures side by side. Estimator, draws, optimizer and step are
build.py's.
"""
import functools
from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key, PyTree

from jaxdreamer import objects, pictures, seeds
from jaxdreamer.registry import SCENES, pick
from jaxdreamer.scenes import restoration
from jaxdreamer.toybox import degradations, geometry
from jaxdreamer.training import Training
from jaxdreamer.types import Prior, Scene, Text
from jaxdreamer.weights import model_shapes

NAME = 'restoration'
PAIRS = 103                            # what the run's key is folded with to draw pictures
HELD_OUT = 2 ** 31 - 1                 # the step whose pictures no run comes to
SHOWN = 4                              # of them in a preview


def is_one(config) -> bool:
  """Whether a run of `config` restores pictures."""
  return config.scene.name == NAME


def scene(config, prior: Prior | None) -> Scene:
  """The scene of config.scene. ValueError where the prior cannot be adapted, or none is given: what
  makes objects asks without one."""
  if prior is None:
    raise ValueError("config.scene.name='restoration' makes no object: python -m "
                     'jaxdreamer.restore is for its runs')
  made = pick(SCENES, config.scene, 'scene')(prior=prior)
  names = jax.eval_shape(made.init, seeds.key(config.seed))
  if prior.views_per_scene > 1 or not any(name.startswith('vae/') for name in names):
    raise ValueError(f"config.scene.name='restoration': config.prior.name={config.prior.name!r} "
                     'has no autoencoder, or sees several views at once; stable_diffusion is such '
                     'a prior')
  return made


def load(config) -> dict[str, PyTree]:
  """What the weights of the prior are to hold beside its own."""
  asked = is_one(config) and config.scene.restoration.feature
  return {'reader': geometry.shipped()['reader']} if asked else {}


def side(prior: Prior) -> int:
  """Pixels of a side of the pictures that the prior takes and gives."""
  z = jax.ShapeDtypeStruct((1, *prior.latent), jnp.float32)
  return jax.eval_shape(Prior.decode, prior, z).shape[1]


def source(path: str, n: int, size: int) -> Callable[[Key[Array, '']], degradations.Pairs]:
  """key -> `n` pairs of `size` pixels: of the pictures in a folder, or the toybox's renders."""
  if not path:
    return jax.jit(functools.partial(degradations.pairs, n=n, size=size))
  option = 'config.scene.restoration.path'
  files, degrade = pictures.files_in(path, option=option), jax.jit(degradations.of_truth)

  def draw(key):
    k_place, k_low = jax.random.split(key)
    truth = np.stack([pictures.crop(pictures.read(files[int(which * len(files))], option=option),
                                    size, at=(down, right))
                      for which, down, right in jax.random.uniform(k_place, (n, 3)).tolist()])
    return degradations.Pairs(degrade(k_low, truth), jnp.asarray(truth))
  return draw


def texts(config, prior: Prior, text: Text, mesh: Mesh) -> Callable[[int], Text]:
  """step -> the Text of each of its views: the prompt's, and a pair of pictures, a function of the
  config and the step alone."""
  n, size = config.sampling.views, side(prior)
  nothing = np.zeros((n, size, size, 3), np.float32)       # of a model that is here by its shapes
  draw = (source(config.scene.restoration.path, n, size)
          if config.prior.path != model_shapes.SHAPES
          else lambda key: degradations.Pairs(nothing, nothing))
  key = jax.random.fold_in(seeds.key(config.seed), PAIRS)
  spread = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

  def put(x):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, spread, lambda at: x[at])
  rows = functools.cache(lambda: jax.tree.map(
    lambda a: put(np.broadcast_to(a, (n, *a.shape))), text))

  @functools.lru_cache(maxsize=2)                # the first is taken to compile, then to run
  def of(step: int) -> Text:
    with jax.transfer_guard('allow'):            # what a step is to be sent
      found = draw(jax.random.fold_in(key, step))
      return rows()._replace(pair=put(jnp.stack([found.low, found.truth], 1)))
  return of


@jax.jit
def restore(prior: Prior, params: PyTree, text: Float[Array, 'L D'],
            low: Float[Array, 'N n n 3']) -> Float[Array, 'N n n 3']:
  """Pictures of the prior's own size, restored; `text` is one for all."""
  rows = jnp.broadcast_to(text, (len(low), *text.shape))
  return restoration.restored(prior, params, low, rows)[1]


def model(training: Training) -> objects.Model:
  """What a run shows of its parameters: pictures that it never trains on, each row one of them as
  it was given, as it is restored, and as it truly is."""
  def sheet(params):
    text = training.text(HELD_OUT)
    # those of this process's first device
    plain, pair = (np.asarray(a.addressable_data(0)[:SHOWN]) for a in (text.plain, text.pair))
    low, truth = np.moveaxis(pair, 1, 0)
    made = np.asarray(restore(training.prior, params, plain[0], low))
    return np.concatenate(np.concatenate([low, made, truth], 2))
  return objects.Model(('',), lambda prompt: None, lambda params, prompt: None, sheet)
