"""Everything that a config may name, through dicts one can see: add a line here for what is to be
shipped; what is your own needs none, a config names it 'module:function'."""
import importlib
from functools import partial
from typing import Any, Callable

from jaxdreamer import perception, prompts, regularizers
from jaxdreamer.control_variates.constant import constant
from jaxdreamer.control_variates.depth import depth
from jaxdreamer.control_variates.neighbors import neighbors
from jaxdreamer.control_variates.normals import normals
from jaxdreamer.estimators.asd import asd
from jaxdreamer.estimators.csd import csd
from jaxdreamer.estimators.sds import sds
from jaxdreamer.estimators.ssd import ssd
from jaxdreamer.estimators.vsd import vsd
from jaxdreamer.priors.empirical import empirical
from jaxdreamer.priors.mvdream import mvdream
from jaxdreamer.priors.sdxl import sdxl
from jaxdreamer.priors.stable_diffusion import stable_diffusion
from jaxdreamer.priors.toybox import toybox
from jaxdreamer.scenes import backgrounds, fields
from jaxdreamer.scenes.conv3d import conv3d
from jaxdreamer.scenes.hashgrid import hashgrid
from jaxdreamer.scenes.hyper_ingp import hyper_ingp
from jaxdreamer.scenes.image import image
from jaxdreamer.scenes.mlp import mlp
from jaxdreamer.scenes.triplane_transformer import triplane_transformer
from jaxdreamer.scenes.voxels import voxels
from jaxdreamer.schedules import schedule
from jaxdreamer.toybox import compositions

NEVER = (0.,)                    # the schedule of what is left out
SCENES = {
  'voxels': voxels,
  'hashgrid': lambda band, **kw: hashgrid(active=schedule(band), **kw),
  'mlp': lambda blur, **kw: mlp(variance=schedule(blur), **kw),
  'image': image,
  'hyper_ingp': hyper_ingp,
  'conv3d': conv3d,
  'triplane_transformer': triplane_transformer,
}
PRIORS = {                       # (key, prompt, path) -> Prior
  'toybox': lambda key, prompt, path, **kw: toybox(path=path, **kw),
  'empirical': lambda key, prompt, path, **kw: empirical(key, prompt, **kw),
  'stable_diffusion': lambda key, prompt, path, **kw: stable_diffusion(path=path, **kw),
  'sdxl': lambda key, prompt, path, **kw: sdxl(path=path, **kw),
  'mvdream': lambda key, prompt, path, **kw: mvdream(path=path, **kw),
}
ESTIMATORS = {                   # (prior, sampling.t_min as a schedule) -> Estimator
  'sds': lambda prior, t_min, guidance, **kw: sds(guidance=schedule(guidance), **kw),
  'csd': lambda prior, t_min, negative, **kw: csd(negative=schedule(negative)
                                                  if negative != NEVER else None, **kw),
  'asd': lambda prior, t_min, guidance, **kw: asd(guidance=schedule(guidance),
                                                  t_min=t_min, **kw),
  'vsd': lambda prior, t_min, guidance, **kw: vsd(weights=prior.weights,
                                                  guidance=schedule(guidance), **kw),
  'ssd': lambda prior, t_min, guidance, phi, depth, normals, size, **kw: ssd(
    guidance=schedule(guidance), shape=prior.latent,
    phi=tuple(f for f, _ in control_variates(phi, depth, normals, size).values()), **kw),
}
# (folder of an estimator or '', pixels) -> phi of SSD, and what loads its weights
CONTROL_VARIATES = {
  'constant': lambda path, size: (constant(), None),
  'neighbors': lambda path, size: (neighbors(), None),
  'depth': lambda path, size: through(depth, *perception.depth(path, size=size)),
  'normals': lambda path, size: through(normals, *perception.normals(path, size=size)),
}
CORPORA = {                      # corpora by name, beside files
  'toybox': lambda: compositions.captions()[0],
  'toybox:held_out': lambda: compositions.captions()[1],
}
LEARNED = {'learned': backgrounds.learned, 'environment': backgrounds.environment,
           'hash_map': backgrounds.hash_map,
          # in a share of the views these give way to a random color
          'hypernet': backgrounds.hypernet}
BACKGROUNDS = LEARNED | {'random': backgrounds.random, 'black_or_white': backgrounds.black_or_white,
                         'white': backgrounds.constant}
NORMALS = {'exact': fields.gradient_normals, 'forward': fields.forward_normals,
           'central': fields.difference_normals}
REGULARIZERS = {f.__name__: f for f in (regularizers.orientation, regularizers.opacity,
                                        regularizers.sparsity,
                                        regularizers.opaque, regularizers.distortion,
                                        regularizers.z_variance,
                                        regularizers.eikonal)}


def through(phi: Callable, load: Callable, see: Callable) -> tuple[Callable, Callable]:
  """(phi of SSD that looks through the network `see`, what loads its weights)."""
  return phi(see=see), load


def control_variates(phi: tuple[str, ...], depth: str, normals: str,
              size: int) -> dict[str, tuple[Callable, Callable | None]]:
  """{name: (phi, what loads its weights)} of config.estimator.ssd."""
  unknown = [name for name in phi if name not in CONTROL_VARIATES]
  if unknown or not phi:
    raise ValueError(f'config.estimator.ssd.phi={phi!r}: takes some of {sorted(CONTROL_VARIATES)}')
  paths = {'depth': depth, 'normals': normals}
  return {name: CONTROL_VARIATES[name](paths.get(name, ''), size) for name in phi}


def pick(table: dict, section: Any, option: str) -> Callable:
  """table[section.name], or a function of the user's own named 'module:function', with the keyword
  arguments that the section holds for it."""
  module, _, function = section.name.partition(':')
  if function:
    try:
      return partial(getattr(importlib.import_module(module), function),
                     **section.get(function, {}))
    except (ImportError, AttributeError, ValueError) as error:
      raise ValueError(f'config.{option}.name={section.name!r}: {error}') from error
  if section.name not in table:
    raise ValueError(f"config.{option}.name={section.name!r}: takes one of {sorted(table)}, or "
                     "your own 'module:function'")
  return partial(table[section.name], **section.get(section.name, {}))


def read_corpus(path: str) -> tuple[str, ...]:
  """The prompts of config.corpus.path: a file's, or those of CORPORA."""
  return CORPORA[path]() if path in CORPORA else prompts.read_file(path,
                                                                   option='config.corpus.path')
