"""DPTForDepthEstimation and DepthAnythingForDepthEstimation are transformers': keys, shapes,
outputs, derivatives by the image, at the size of the position embedding and at others."""
import cases
import cases_depth
import compare
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import error

from jaxdreamer.nn import depth_anything, dpt, interpolate

# of the largest output; 9e-7 measured, tanh gelu 1e-4, eps 7e-4, linear for cubic 3e-2
TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-4                # 2e-6 measured
BFLOAT16_TOLERANCE = 2e-2                # 1.2e-2 measured
every_size = pytest.mark.parametrize('family, name, size', [
    (family, name, size) for family, names in (('dpt', cases_depth.DPTS),
                                               ('depth_anything', cases_depth.DEPTH_ANYTHINGS))
    for name in names for size in cases_depth.SIZES[name]])
every_case = pytest.mark.parametrize('family, name', [
    *(('dpt', name) for name in cases_depth.DPTS),
    *(('depth_anything', name) for name in cases_depth.DEPTH_ANYTHINGS)])


@pytest.mark.slow
@every_size
def test_stored_torch_outputs_and_gradients_are_reproduced(family, name, size):
  golden = np.load(cases.GOLDEN / f'{family}_{name}.npz')
  out, gradient = compare.ours('depth', family, name, size)
  tag = f'{size[0]}x{size[1]}'
  assert error(cases_depth.sampled(out), golden[f'out_{tag}']) < TOLERANCE
  assert error(cases_depth.sampled(gradient), golden[f'gradient_{tag}']) < GRADIENT_TOLERANCE


@pytest.mark.parametrize('name', cases_depth.DEPTH_ANYTHINGS)
def test_files_of_transformers_5_hold_the_same_parameters_as_published_ones(name):
  arguments = 'depth_anything', name, cases_depth.SIZES[name][0]
  case, old = compare.depth_case(*arguments), compare.parameters('depth', *arguments)
  shapes = compare.shapes_of(case.golden)
  assert {cases_depth.published(k) for k in shapes} != set(shapes)
  new = compare.loaded(case, {k: case.weight(k, s) for k, s in shapes.items()})
  jax.tree.map(np.testing.assert_array_equal, old, new)


@pytest.mark.slow
@every_case
def test_bfloat16_is_near(family, name):
  size = cases_depth.SIZES[name][-1]
  low = compare.ours_in_bfloat16('depth', family, name, size)
  assert low.dtype == np.float32
  assert error(low, compare.ours('depth', family, name, size)[0]) < BFLOAT16_TOLERANCE


@pytest.fixture
def torch_side(recwarn):
  """make_golden_depth.py, where torch and transformers are installed; their own warnings are not
  ours to fix."""
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  import make_golden_depth
  return make_golden_depth


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@every_size
def test_live_torch_outputs_and_gradients_are_reproduced(torch_side, family, name, size):
  theirs = getattr(torch_side, family)(name)
  torch_out, torch_gradient = torch_side.run_with_gradient(theirs, name, size)
  out, gradient = compare.ours('depth', family, name, size)
  assert torch_side.shapes(theirs) == compare.shapes_of(f'{family}_{name}')
  assert error(out, torch_out) < TOLERANCE
  assert error(gradient, torch_gradient) < GRADIENT_TOLERANCE


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@every_case
def test_configs_that_transformers_wrote_are_read(torch_side, family, name):
  theirs = getattr(torch_side, family)(name)
  module = {'dpt': dpt, 'depth_anything': depth_anything}[family]
  config = theirs.config.to_dict() | ({'head_channels': cases_depth.HEAD_CHANNELS[name]} if family
                                      == 'dpt' else {})
  ours = compare.depth_case(family, name, cases_depth.SIZES[name][0]).model(jnp.float32)
  assert module.config_from_transformers(config) == ours.config


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('old, new', [((5, 7), (9, 4)), ((4, 4), (8, 8)), ((3, 1), (1, 6)),
                                      ((37, 37), (16, 18))])
@pytest.mark.parametrize('method, align_corners', [('linear', False), ('linear', True),
                                                   ('cubic', False), ('cubic', True)])
def test_resizing_is_torchs(torch_side, method, align_corners, old, new):
  import torch
  x = cases.random('map', 2, *old, 3)
  theirs = torch.nn.functional.interpolate(torch.from_numpy(x).permute(0, 3, 1, 2), new,
                                           align_corners=align_corners,
                                           mode={'linear': 'bilinear', 'cubic': 'bicubic'}[method])
  ours = interpolate.resize(jnp.asarray(x), new, method=method, align_corners=align_corners)
  assert error(ours, theirs.permute(0, 2, 3, 1).numpy()) < 5e-6


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('method', ['linear', 'cubic'])
@pytest.mark.parametrize('old, new', [((40, 30), (14, 28)), ((9, 11), (28, 42))])
def test_preprocessing_resizes_as_torchvision_does(torch_side, method, old, new):
  import torch
  x = np.clip(cases.random('photograph', 1, *old, 3) / 4 + .5, 0, 1)
  theirs = torch.nn.functional.interpolate(torch.from_numpy(x).permute(0, 3, 1, 2), new,
                                           antialias=True,
                                           mode={'linear': 'bilinear', 'cubic': 'bicubic'}[method])
  ours = interpolate.preprocess(jnp.asarray(x), shape=new, normalization='midas', method=method)
  assert error(ours, 2 * theirs.permute(0, 2, 3, 1).numpy() - 1) < 5e-6
