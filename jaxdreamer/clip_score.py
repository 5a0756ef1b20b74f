"""How well pictures fit a text, by CLIP (Radford et al. 2021): similarity and R-precision, under a
named protocol.

    see, read = clip_score.load(folder)
    # unit vectors [V, D], [N, D]
    images, texts = see(x [V, H, W, 3] in [0, 1]), read(prompts)

A figure means something beside another one only if backbone, views, crop and the prompts to choose
from are the same: `identity` writes them all down.
"""
import math
import pathlib
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdreamer.nn import clip, clip_tokens, clip_vision, safe_files
from jaxdreamer.nn import folder as model_folder
from jaxdreamer.nn import weights as weight_files

BATCH = 8                              # pictures at a time


class Protocol(NamedTuple):
  """One ring of cameras, pictures on white."""
  views: int
  elevation: float                     # radians


# ScaleDreamer's test views: 120 at 15 degrees, each scored, then averaged. DreamFusion's: 30
# degrees, averaged over azimuth; it does not say over how many.
PROTOCOLS = {'scaledreamer': Protocol(120, math.radians(15.)),
             'dreamfusion': Protocol(36, math.radians(30.))}


def unit(x):
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def load(folder: str) -> tuple[Callable, Callable]:
  """(see, read) of a CLIP model in transformers' layout: config.json, the weights
  (folder.weights_in) and the tokenizer's files in one folder. FileNotFoundError or ValueError, one
  line, for what is missing or foreign."""
  folder = pathlib.Path(folder)
  if not (folder / 'config.json').is_file():
    raise FileNotFoundError(f'--clip={folder}: no config.json there; give the folder of a '
                            'CLIP model')
  config = safe_files.read_json(folder / 'config.json')
  text_config, vision_config = clip.config_from_transformers(
      config), clip_vision.config_from_transformers(config)
  tower, reader = clip_vision.CLIPVisionModelWithProjection(
      vision_config), clip.CLIPTextModelWithProjection(text_config)
  tokenize = clip_tokens.load(folder)
  side = vision_config.image_size
  def weights_of(net, example, rows):
    like = jax.eval_shape(net.init, jax.random.key(0), example)['params']
    return weight_files.load(model_folder.weights_in(folder, 'model'), like, rename=rows)
  weights = (weights_of(tower, jnp.zeros((1, side, side, 3)), clip_vision.VISION_RENAME),
             weights_of(reader, jnp.zeros((1, 77), jnp.int32), clip.TEXT_PROJECTION_RENAME))
  look = jax.jit(lambda w, x: unit(tower.apply({'params': w},
                                               clip_vision.preprocess(x, size=side))))
  tell = jax.jit(lambda w, ids: unit(reader.apply({'params': w}, ids)[0]))

  def in_batches(f, w, rows):
    n, rest = len(rows), -len(rows) % BATCH
    rows = np.concatenate([rows, np.repeat(rows[-1:], rest, 0)])
    return np.concatenate([np.asarray(f(w, rows[i:i + BATCH]))
                           for i in range(0, len(rows), BATCH)])[:n]
  return (lambda x: in_batches(look, weights[0], np.asarray(x, np.float32)),
          lambda texts: in_batches(tell, weights[1], tokenize(texts)))


def similarity(images: Float[np.ndarray, 'V D'], text: Float[np.ndarray, 'D']) -> float:
  """Mean cosine over views."""
  return float(np.mean(images @ text))


def recall_at_1(images: Float[np.ndarray, 'V D'], texts: Float[np.ndarray, 'N D'],
                target: int) -> float:
  """R@1: the share of views to which text number `target`, of N, is nearest (R-precision, Park et
  al. 2021)."""
  return float(np.mean((images @ texts.T).argmax(1) == target))


def identity(protocol: str, *, backbone: str, prompts: int, size: int) -> str:
  """What two figures must share to be compared."""
  views, elevation = PROTOCOLS[protocol]
  return (f'{protocol}: {backbone}, {views} views at {math.degrees(elevation):.0f} degrees, {size} '
          'px on white, whole square, '
          f'{prompts} prompts')
