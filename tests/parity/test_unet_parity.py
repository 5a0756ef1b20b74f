"""UNet2DCondition is diffusers' UNet2DConditionModel: keys, shapes, outputs and gradients."""
import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdreamer.nn import weights
from jaxdreamer.nn.unet import UNet2DCondition, UNetConfig, config_from_diffusers

TOLERANCE = 2e-5                         # of the largest output; 3e-6 measured, wrong gelu 1e-4, wrong eps 1e-3


def loaded(tmp_path, name, shapes):
  """The linen model of a case and its parameters, read from a checkpoint with exactly the keys of the torch class."""
  file = tmp_path / f'{name}.safetensors'
  safetensors.numpy.save_file({k: cases.weight(k, s) for k, s in shapes.items()}, file)
  model = UNet2DCondition(config_from_diffusers(cases.UNETS[name]))
  like = jax.eval_shape(model.init, jax.random.key(0), *inputs(name))['params']
  return model, weights.load(file, like)


def inputs(name):
  """The case's inputs as jax arrays."""
  return [None if x is None else jnp.asarray(x) for x in cases.unet_inputs(cases.UNETS[name])]


def error(ours, theirs):
  """Largest difference, relative to the largest value."""
  return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize('name', cases.UNETS)
def test_unet_reproduces_stored_torch_outputs(tmp_path, name):
  golden = np.load(cases.GOLDEN / f'unet_{name}.npz')
  shapes = {k: tuple(int(n) for n in s.split(',')) for k, s in (row.split('|') for row in golden['keys'])}
  model, params = loaded(tmp_path, name, shapes)
  assert error(jax.jit(model.apply)({'params': params}, *inputs(name)), golden['out']) < TOLERANCE


@pytest.fixture
def torch_side(recwarn):
  """make_golden.py, where torch and diffusers are installed; their own warnings are not ours to fix."""
  pytest.importorskip('torch')
  pytest.importorskip('diffusers')
  import make_golden
  return make_golden


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['sd1', 'sd2'])
def test_unet_agrees_with_the_live_torch_class(tmp_path, torch_side, name):
  import torch
  theirs = torch_side.unet(cases.UNETS[name])
  model, params = loaded(tmp_path, name, torch_side.shapes(theirs))
  with torch.no_grad():
    torch_out = torch_side.run_unet(theirs, *cases.unet_inputs(cases.UNETS[name])).numpy()
  assert error(jax.jit(model.apply)({'params': params}, *inputs(name)), torch_out) < TOLERANCE


@pytest.mark.filterwarnings('ignore')
def test_toybox_unet_and_its_gradients_agree_with_the_live_torch_class(tmp_path, torch_side):
  import torch
  theirs = torch_side.unet(cases.UNETS['toybox'])
  model, params = loaded(tmp_path, 'toybox', torch_side.shapes(theirs))
  sample, *rest = inputs('toybox')
  cotangent = cases.random('cotangent', *sample.shape)
  out, pullback = jax.vjp(jax.jit(lambda p, x: model.apply({'params': p}, x, *rest)), params, sample)
  g_params, g_sample = pullback(jnp.asarray(cotangent))

  sample, *rest = cases.unet_inputs(cases.UNETS['toybox'])
  sample = torch.from_numpy(sample).requires_grad_()
  torch_out = torch_side.run_unet(theirs, sample, *rest)
  torch_out.backward(torch.from_numpy(cotangent))
  assert error(out, torch_out.detach().numpy()) < TOLERANCE
  assert error(g_sample, sample.grad.numpy()) < TOLERANCE

  weights.save(tmp_path / 'grad.safetensors', g_params, dtype=jnp.float32)
  ours = safetensors.numpy.load_file(tmp_path / 'grad.safetensors')
  errors = {k: error(ours[k], p.grad.numpy()) for k, p in theirs.named_parameters()}
  assert max(errors.values()) < 5 * TOLERANCE, errors


@pytest.mark.filterwarnings('ignore')
def test_torch_loads_what_save_writes(tmp_path, torch_side):
  import torch
  from safetensors.torch import load_file
  name = 'sd2'
  theirs = torch_side.unet(cases.UNETS[name])
  model, params = loaded(tmp_path, name, torch_side.shapes(theirs))
  params = jax.tree.map(lambda p: p + .01, params)
  weights.save(tmp_path / 'ours.safetensors', params, dtype=jnp.float32)
  theirs.load_state_dict(load_file(tmp_path / 'ours.safetensors'), strict=True)
  with torch.no_grad():
    torch_out = torch_side.run_unet(theirs, *cases.unet_inputs(cases.UNETS[name])).numpy()
  assert error(jax.jit(model.apply)({'params': params}, *inputs(name)), torch_out) < TOLERANCE


@pytest.mark.filterwarnings('ignore')
def test_a_config_that_diffusers_wrote_is_read(torch_side):
  theirs = torch_side.UNet2DConditionModel(**cases.UNETS['toybox'])
  assert config_from_diffusers(dict(theirs.config)) == UNetConfig(**cases.UNETS['toybox'])
