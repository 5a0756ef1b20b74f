"""DPTForDepthEstimation and DepthAnythingForDepthEstimation are transformers': keys, shapes, outputs, derivatives by the
image, at the size of the position embedding and at others."""
import functools
import re

import cases
import cases_depth
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdreamer.nn import depth_anything, dpt, interpolate, weights
from jaxdreamer.nn.dinov2 import DINOV2_RENAME

TOLERANCE = 2e-5                         # of the largest output; 9e-7 measured, tanh gelu 1e-4, eps 7e-4, linear for cubic 3e-2
GRADIENT_TOLERANCE = 1e-4                # 2e-6 measured
BFLOAT16_TOLERANCE = 2e-2                # 1.2e-2 measured
every_size = pytest.mark.parametrize('family, name, size', [
    (family, name, size) for family, names in (('dpt', cases_depth.DPTS), ('depth_anything', cases_depth.DEPTH_ANYTHINGS))
    for name in names for size in cases_depth.SIZES[name]])
every_case = pytest.mark.parametrize('family, name', [
    *(('dpt', name) for name in cases_depth.DPTS), *(('depth_anything', name) for name in cases_depth.DEPTH_ANYTHINGS)])


def model_of(family, name, dtype=jnp.float32):
  """The linen model of a case."""
  if family == 'dpt':
    config = cases_depth.DPTS[name] | {'head_channels': cases_depth.HEAD_CHANNELS[name]}
    return dpt.DPTForDepthEstimation(dpt.config_from_transformers(config), dtype)
  config = depth_anything.config_from_transformers(cases_depth.DEPTH_ANYTHINGS[name])
  return depth_anything.DepthAnythingForDepthEstimation(config, dtype)


def published(key):
  """The key of transformers 5 as the files on the hub have it."""
  for new, old in (('q_proj', 'attention.query'), ('k_proj', 'attention.key'), ('v_proj', 'attention.value'),
                   ('o_proj', 'output.dense')):
    key = re.sub(rf'\.attention\.{new}\.', f'.attention.{old}.', key)
  return key


def loaded(tmp_path, family, name, shapes, rename_key=published):
  """A case's parameters, read from a checkpoint with exactly the keys of the torch class, or those of the hub."""
  file = tmp_path / f'{name}.safetensors'
  safetensors.numpy.save_file({rename_key(k): cases_depth.weight(k, s) for k, s in shapes.items()}, file)
  x = jnp.zeros((1, *cases_depth.SIZES[name][0], 3))
  like = jax.eval_shape(model_of(family, name).init, jax.random.key(0), x)['params']
  return weights.load(file, like, rename=DINOV2_RENAME if family == 'depth_anything' else ())


def golden_of(family, name):
  """The golden file, and {key: shape} of its checkpoint."""
  golden = np.load(cases.GOLDEN / f'{family}_{name}.npz')
  return golden, {k: tuple(int(n) for n in s.split(',')) for k, s in (row.split('|') for row in golden['keys'])}


@functools.partial(jax.jit, static_argnames=('family', 'name'))
def run(params, image, cotangent, *, family, name):
  """Output, and the image's gradient."""
  out, pullback = jax.vjp(lambda x: model_of(family, name).apply({'params': params}, x), image)
  return out, pullback(cotangent)[0]


def run_case(params, family, name, size):
  """`run` on the case's image and cotangent."""
  channels = cases_depth.HEAD_CHANNELS.get(name, 1)
  shape = (2, *size) if channels == 1 else (2, *size, channels)
  return run(params, cases_depth.image(name, size), cases_depth.cotangent(name, shape), family=family, name=name)


def error(ours, theirs):
  """Largest difference, relative to the largest value."""
  return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@every_size
def test_stored_torch_outputs_and_gradients_are_reproduced(tmp_path, family, name, size):
  golden, shapes = golden_of(family, name)
  out, gradient = run_case(loaded(tmp_path, family, name, shapes), family, name, size)
  tag = f'{size[0]}x{size[1]}'
  errors = error(cases_depth.sampled(out), golden[f'out_{tag}']), error(cases_depth.sampled(gradient), golden[f'gradient_{tag}'])
  assert errors[0] < TOLERANCE
  assert errors[1] < GRADIENT_TOLERANCE


@pytest.mark.parametrize('name', cases_depth.DEPTH_ANYTHINGS)
def test_files_of_transformers_5_hold_the_same_parameters_as_published_ones(tmp_path, name):
  shapes = golden_of('depth_anything', name)[1]
  assert {published(k) for k in shapes} != set(shapes)
  old, new = (loaded(tmp_path, 'depth_anything', name, shapes, rename) for rename in (published, lambda k: k))
  jax.tree.map(np.testing.assert_array_equal, old, new)


@every_case
def test_bfloat16_is_near(tmp_path, family, name):
  shapes = golden_of(family, name)[1]
  params = loaded(tmp_path, family, name, shapes)
  image = cases_depth.image(name, cases_depth.SIZES[name][-1])
  exact, low = (jax.jit(model_of(family, name, d).apply)({'params': params}, image) for d in (jnp.float32, jnp.bfloat16))
  assert low.dtype == jnp.float32
  assert error(low, np.asarray(exact)) < BFLOAT16_TOLERANCE


@pytest.fixture
def torch_side(recwarn):
  """make_golden_depth.py, where torch and transformers are installed; their own warnings are not ours to fix."""
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  import make_golden_depth
  return make_golden_depth


@pytest.mark.filterwarnings('ignore')
@every_size
def test_live_torch_outputs_and_gradients_are_reproduced(tmp_path, torch_side, family, name, size):
  theirs = getattr(torch_side, family)(name)
  torch_out, torch_gradient = torch_side.run_with_gradient(theirs, name, size)
  out, gradient = run_case(loaded(tmp_path, family, name, torch_side.shapes(theirs)), family, name, size)
  assert error(out, torch_out) < TOLERANCE
  assert error(gradient, torch_gradient) < GRADIENT_TOLERANCE


@pytest.mark.filterwarnings('ignore')
@every_case
def test_configs_that_transformers_wrote_are_read(torch_side, family, name):
  theirs = getattr(torch_side, family)(name)
  module = {'dpt': dpt, 'depth_anything': depth_anything}[family]
  config = theirs.config.to_dict() | ({'head_channels': cases_depth.HEAD_CHANNELS[name]} if family == 'dpt' else {})
  assert module.config_from_transformers(config) == model_of(family, name).config


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('old, new', [((5, 7), (9, 4)), ((4, 4), (8, 8)), ((3, 1), (1, 6)), ((37, 37), (16, 18))])
@pytest.mark.parametrize('method, align_corners', [('linear', False), ('linear', True), ('cubic', False), ('cubic', True)])
def test_resizing_is_torchs(torch_side, method, align_corners, old, new):
  import torch
  x = cases.random('map', 2, *old, 3)
  theirs = torch.nn.functional.interpolate(torch.from_numpy(x).permute(0, 3, 1, 2), new, align_corners=align_corners,
                                           mode={'linear': 'bilinear', 'cubic': 'bicubic'}[method])
  ours = interpolate.resize(jnp.asarray(x), new, method=method, align_corners=align_corners)
  assert error(ours, theirs.permute(0, 2, 3, 1).numpy()) < 5e-6


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('method', ['linear', 'cubic'])
@pytest.mark.parametrize('old, new', [((40, 30), (14, 28)), ((9, 11), (28, 42))])
def test_preprocessing_resizes_as_torchvision_does(torch_side, method, old, new):
  import torch
  x = np.clip(cases.random('photograph', 1, *old, 3) / 4 + .5, 0, 1)
  theirs = torch.nn.functional.interpolate(torch.from_numpy(x).permute(0, 3, 1, 2), new, antialias=True,
                                           mode={'linear': 'bilinear', 'cubic': 'bicubic'}[method])
  ours = interpolate.preprocess(jnp.asarray(x), shape=new, normalisation='midas', method=method)
  assert error(ours, 2 * theirs.permute(0, 2, 3, 1).numpy() - 1) < 5e-6
