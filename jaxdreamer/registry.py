"""Everything that a config may name, through dicts one can see: add a line here for what is to be
shipped; what is your own needs none, a config names it 'module:function'."""
from functools import partial
from typing import Any, Callable

import jax.numpy as jnp

from jaxdreamer import prompts, regularizers, sections
from jaxdreamer.estimators.asd import asd
from jaxdreamer.estimators.csd import csd
from jaxdreamer.estimators.sds import sds
from jaxdreamer.estimators.ssd import ssd
from jaxdreamer.estimators.vsd import vsd
from jaxdreamer.priors.empirical import empirical
from jaxdreamer.priors.mvdream import mvdream
from jaxdreamer.priors.sdxl import sdxl
from jaxdreamer.priors.stable_diffusion import stable_diffusion
from jaxdreamer.priors.toybox import reader, toybox
from jaxdreamer.scenes import backgrounds, fields
from jaxdreamer.scenes.conv3d import conv3d
from jaxdreamer.scenes.dmtet import dmtet
from jaxdreamer.scenes.hashgrid import hashgrid
from jaxdreamer.scenes.hyper_ingp import hyper_ingp
from jaxdreamer.scenes.image import image
from jaxdreamer.scenes.mesh import mesh
from jaxdreamer.scenes.mlp import mlp
from jaxdreamer.scenes.restoration import restoration
from jaxdreamer.scenes.sdf_hashgrid import sdf_hashgrid
from jaxdreamer.scenes.sdf_voxels import sdf_voxels
from jaxdreamer.scenes.triplane_transformer import triplane_transformer
from jaxdreamer.scenes.voxels import voxels
from jaxdreamer.schedules import at, is_never
from jaxdreamer.toybox import compositions

SCENES = {'voxels': voxels, 'sdf_voxels': sdf_voxels, 'hashgrid': hashgrid,
          'sdf_hashgrid': sdf_hashgrid, 'mlp': mlp, 'dmtet': dmtet, 'mesh': mesh, 'image': image,
          'hyper_ingp': hyper_ingp, 'conv3d': conv3d, 'triplane_transformer': triplane_transformer,
          'restoration': restoration}
PRIORS = {'toybox': toybox, 'empirical': empirical, 'stable_diffusion': stable_diffusion,
          'sdxl': sdxl, 'mvdream': mvdream}
READERS = {'toybox': reader}           # of priors whose text encoder is loaded alone: all it embeds
# arguments that a prior may have beside its options: build.make_prior gives those that it asks for
FACTS = ('key', 'prompt', 'kind', 'path', 'lora', 'lora_scale')
ESTIMATORS = {'sds': sds, 'csd': csd, 'vsd': vsd, 'ssd': ssd, 'asd': asd}
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
                                        regularizers.eikonal,
                                        regularizers.normal_consistency,
                                        regularizers.laplacian)}


def pick(table: dict, section: Any, option: str) -> Callable:
  """table[section.name], or a function of the user's own named 'module:function', with the keyword
  arguments that the section holds for it."""
  _, _, function = section.name.partition(':')
  if function:
    own = sections.own_function(section.name, option=f'config.{option}.name')
    return partial(own, **section.get(function, {}))
  if section.name not in table:
    raise ValueError(f"config.{option}.name={section.name!r}: takes one of {sorted(table)}, or "
                     "your own 'module:function'")
  return partial(table[section.name], **section.get(section.name, {}))


def make_regularize(section: Any) -> Callable:
  """(Rendering, step) -> the weighted sum of the regularizers whose weight is not 0."""
  unknown = set(section) - set(REGULARIZERS)
  if unknown:
    raise ValueError(f'config.regularizers: unknown {sorted(unknown)}; takes '
                     f'{sorted(REGULARIZERS)}')
  terms = [(REGULARIZERS[k], v) for k, v in section.items() if not is_never(v)]
  def regularize(rendering, step):
    return sum((at(weight, step) * term(rendering) for term, weight in terms),
               start=0. * jnp.sum(rendering.opacity))
  return regularize


def read_corpus(path: str) -> tuple[str, ...]:
  """The prompts of config.corpus.path: a file's, or those of CORPORA."""
  return CORPORA[path]() if path in CORPORA else prompts.read_file(path,
                                                                   option='config.corpus.path')
