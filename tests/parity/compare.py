"""Our side of the comparisons with torch: every network on the weights and inputs of its case, for
the tests here and for benchmarks.parity. Torch is not needed: the golden file of a case knows its
checkpoint's keys and shapes.

Results are cached, so that stored and live outputs of torch are compared with one compilation of
ours. The compiler hardly optimizes (`QUICK`): these networks are tiny, and compiling them is what
takes time.
"""
import functools
import pathlib
import tempfile
from typing import Any, Callable, NamedTuple

import cases
import cases_depth
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxdreamer.nn import clip, clip_vision, depth_anything, dpt, mvdream, unet, unet_config, vae
from jaxdreamer.nn.dinov2 import DINOV2_RENAME
from jaxdreamer.toybox import xla_flags
from jaxdreamer.weights import safetensors_io

# a third of the time
QUICK = xla_flags.known({'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False})


class Case(NamedTuple):
  """One network with its input, and the cotangent of its output that is pulled back to this
  input."""
  golden: str                            # name of its file
  model: Callable                        # dtype -> linen module
  init: Callable                         # (model, key) -> variables
  apply: Callable                        # (model, variables, x) -> output
  x: np.ndarray
  cotangent: Any = None                  # None where the input is integers
  rename: tuple = ()
  weight: Callable = cases.weight
  stored: Callable = lambda key: key                     # the torch class's key -> the file's


def unet_case(name):
  """A denoiser, and its gradient by the sample."""
  sample, *rest = (None if x is None else jnp.asarray(x) for x in cases.unet_inputs(name))
  extras = {k: jnp.asarray(v) for k, v in cases.unet_extras(name).items()}
  config = unet_config.from_diffusers(cases.UNETS[name])
  return Case(f'unet_{name}', lambda dtype: unet.UNet2DCondition(config, dtype,
                                                                 views=cases.VIEWS.get(name, 1)),
              lambda model, key: model.init(key, sample, *rest, **extras),
              lambda model, variables, x: model.apply(variables, x, *rest, **extras),
              sample, cases.unet_cotangent(name), mvdream.MVDREAM_RENAME if name in cases.VIEWS
              else ())


def vae_case(name, method):
  """The encoder (its mean) or the decoder of an autoencoder, and its gradient."""
  config = vae.config_from_diffusers(cases.VAES[name])
  image, latent, _ = cases.vae_inputs(cases.VAES[name])
  mean = lambda out: out.mean if method == 'encode' else out
  x = image if method == 'encode' else latent
  return Case(f'vae_{name}', functools.partial(vae.AutoencoderKL, config),
              lambda model, key: model.init(key, jnp.asarray(image)),
              lambda model, variables, x: mean(model.apply(variables, x, method=method)), x,
              cases.vae_cotangent(name, method), vae.VAE_RENAME)


def clip_case(name):
  """A text tower: last_hidden_state."""
  ids = jnp.asarray(cases.clip_inputs(cases.CLIPS[name]))
  return Case(f'clip_{name}', functools.partial(clip.CLIPTextModel,
                                                clip.config_from_transformers(cases.CLIPS[name])),
              lambda model, key: model.init(key, ids),
              lambda model, variables, x: model.apply(variables, x)[0], ids,
              rename=clip.CLIP_RENAME)


def clip_projection_case(name):
  """A text tower with its projection."""
  ids, config = jnp.asarray(cases.clip_inputs(cases.CLIPS[name])), clip.config_from_transformers(
      cases.CLIPS[name])
  return Case(f'clip_projection_{name}', functools.partial(clip.CLIPTextModelWithProjection,
                                                           config),
              lambda model, key: model.init(key, ids),
              lambda model, variables, x: model.apply(variables, x)[0], ids,
              rename=clip.TEXT_PROJECTION_RENAME)


def clip_vision_case(name):
  """An image tower with its projection, and its gradient by the image."""
  config, x = clip_vision.config_from_transformers(cases.VISIONS[name]), cases.vision_inputs(
      cases.VISIONS[name])
  return Case(f'clip_vision_{name}', functools.partial(clip_vision.CLIPVisionModelWithProjection,
                                                       config),
              lambda model, key: model.init(key, jnp.asarray(x)),
              lambda model, variables, x: model.apply(variables, x), x,
              cases.random('d_embedding', 2, cases.VISIONS[name]['projection_dim']),
              clip_vision.VISION_RENAME)


def depth_case(family, name, size):
  """A depth estimator, and its gradient by the image."""
  if family == 'dpt':
    config = dpt.config_from_transformers(cases_depth.DPTS[name]
                                          | {'head_channels': cases_depth.HEAD_CHANNELS[name]})
    model = functools.partial(dpt.DPTForDepthEstimation, config)
  else:
    config = depth_anything.config_from_transformers(cases_depth.DEPTH_ANYTHINGS[name])
    model = functools.partial(depth_anything.DepthAnythingForDepthEstimation, config)
  channels = cases_depth.HEAD_CHANNELS.get(name, 1)
  shape = (2, *size) if channels == 1 else (2, *size, channels)
  first = jnp.zeros((1, *cases_depth.SIZES[name][0], 3))
  return Case(f'{family}_{name}', model, lambda model, key: model.init(key, first),
              lambda model, variables, x: model.apply(variables, x), cases_depth.image(name, size),
              cases_depth.cotangent(name, shape), DINOV2_RENAME if family == 'depth_anything'
              else (), cases_depth.weight,
              cases_depth.published)


FAMILIES = {'unet': unet_case, 'vae': vae_case, 'clip': clip_case,
            'clip_projection': clip_projection_case,
            'clip_vision': clip_vision_case, 'depth': depth_case}


def shapes_of(golden):
  """{key: shape} of the checkpoint of a golden file."""
  rows = (row.split('|') for row in np.load(cases.GOLDEN / f'{golden}.npz')['keys'])
  return {k: tuple(int(n) for n in s.split(',')) for k, s in rows}


def loaded(case, tensors):
  """Parameters read from a checkpoint of these tensors."""
  like = jax.eval_shape(lambda key: case.init(case.model(jnp.float32), key),
                        jax.random.key(0))['params']
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / 'weights.safetensors'
    safetensors.numpy.save_file(tensors, file)
    return safetensors_io.load(file, like, rename=case.rename)


@functools.cache
def parameters(family, *arguments):
  """A case's parameters, read from a checkpoint with exactly the keys of the torch class."""
  case = FAMILIES[family](*arguments)
  return loaded(case, {case.stored(k): case.weight(k, s)
                       for k, s in shapes_of(case.golden).items()})


@functools.cache
def ours(family, *arguments):
  """Output, and the cotangent pulled back to the input."""
  case = FAMILIES[family](*arguments)

  def run(params, x, cotangent):
    forward = lambda x: case.apply(case.model(jnp.float32), {'params': params}, x)
    if cotangent is None:
      return forward(x), None
    out, pullback = jax.vjp(forward, x)
    return out, pullback(cotangent)[0]

  return compiled(run, parameters(family, *arguments), case.x, case.cotangent)


@functools.cache
def ours_in_bfloat16(family, *arguments):
  """The output, computed in bfloat16 on float32 parameters."""
  case = FAMILIES[family](*arguments)
  run = lambda params, x: case.apply(case.model(jnp.bfloat16), {'params': params}, x)
  return compiled(run, parameters(family, *arguments), case.x)


def compiled(f, *arguments):
  """f(*arguments) as numpy arrays, compiled in a hurry."""
  out = jax.jit(f, compiler_options=QUICK)(*jax.tree.map(jnp.asarray, arguments))
  return jax.tree.map(np.asarray, out)


def error(ours, theirs):
  """Largest difference, relative to the largest value."""
  return float(np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max()
               / np.abs(np.asarray(theirs)).max())
