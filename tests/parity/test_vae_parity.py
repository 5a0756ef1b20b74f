"""AutoencoderKL is diffusers' AutoencoderKL: keys old and new, shapes, posteriors, images and
gradients."""
import functools
import re

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdreamer.nn.vae import VAE_RENAME, AutoencoderKL, Posterior, VAEConfig, config_from_diffusers
from jaxdreamer.weights import safetensors_io

TOLERANCE = 2e-5  # of the largest output; 1e-6 measured, eps 1e-5 for 1e-6 1e-2
TOLERANCE_BF16 = 2e-2                    # 1.5e-2 measured
OLD = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}


def old_names(tensors):
  """The same checkpoint as older releases of diffusers wrote it."""
  return {re.sub(r'to_[qkv]|to_out\.0', lambda m: OLD[m[0]], k): v for k, v in tensors.items()}


def drawn(rows):
  """The weights of a case, from a golden file's list of keys."""
  return {k: cases.weight(k, tuple(int(n) for n in s.split(',')))
          for k, s in (row.split('|') for row in rows)}


def loaded(tmp_path, name, tensors, dtype=jnp.float32):
  """The linen model of a case and its parameters, read from a checkpoint of these tensors."""
  file = tmp_path / 'vae.safetensors'
  safetensors.numpy.save_file(tensors, file)
  model = AutoencoderKL(config_from_diffusers(cases.VAES[name]), dtype)
  like = jax.eval_shape(model.init, jax.random.key(0),
                        jnp.asarray(cases.vae_inputs(cases.VAES[name])[0]))['params']
  return model, safetensors_io.load(file, like, rename=VAE_RENAME)


def run(model, params, name):
  """mean, logvar, image, and the gradient of the encoder by its input."""
  @jax.jit
  def all_of(params, image, latent, cotangents):
    apply = functools.partial(model.apply, {'params': params})
    posterior, pullback = jax.vjp(functools.partial(apply, method='encode'), image)
    return *posterior, apply(latent, method='decode'), *pullback(Posterior(*cotangents))

  inputs = jax.tree.map(jnp.asarray, cases.vae_inputs(cases.VAES[name]))
  return dict(zip(('mean', 'logvar', 'image', 'gradient'), all_of(params, *inputs)))


def errors(ours, theirs):
  """Largest difference, relative to the largest value, of each output."""
  return {k: np.abs(np.asarray(v) - theirs[k]).max() / np.abs(theirs[k]).max()
          for k, v in ours.items()}


@pytest.mark.parametrize('naming', [dict, old_names], ids=['new', 'old'])
@pytest.mark.parametrize('name', cases.VAES)
def test_vae_reproduces_stored_torch_outputs_from_new_and_old_files(tmp_path, name, naming):
  golden = np.load(cases.GOLDEN / f'vae_{name}.npz')
  found = errors(run(*loaded(tmp_path, name, naming(drawn(golden['keys']))), name), golden)
  assert max(found.values()) < TOLERANCE, found


def test_vae_in_bfloat16_stays_near_the_stored_torch_outputs(tmp_path):
  name = 'three_levels'
  golden = np.load(cases.GOLDEN / f'vae_{name}.npz')
  ours = run(*loaded(tmp_path, name, drawn(golden['keys']), jnp.bfloat16), name)
  assert all(ours[k].dtype == jnp.float32 for k in ours)
  found = errors(ours, golden)
  assert max(found[k] for k in ('mean', 'logvar', 'image')) < TOLERANCE_BF16, found


def run_torch(torch_side, model, name):
  """As `run`, by the torch class."""
  import torch
  image, latent, cotangents = cases.vae_inputs(cases.VAES[name])
  with torch.no_grad():
    mean, logvar = torch_side.run_encode(model, image)
    outputs = mean, logvar, torch_side.run_decode(model, latent), torch_side.encode_gradient(
        model, image, cotangents)
  return {k: v.numpy() for k, v in zip(('mean', 'logvar', 'image', 'gradient'), outputs)}


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', cases.VAES)
def test_vae_agrees_with_the_live_torch_class(tmp_path, torch_side, name):
  theirs = torch_side.vae(cases.VAES[name])
  tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
  found = errors(run(*loaded(tmp_path, name, tensors), name), run_torch(torch_side, theirs, name))
  assert max(found.values()) < TOLERANCE, found


@pytest.mark.filterwarnings('ignore')
def test_old_names_mean_to_us_what_they_mean_to_diffusers(tmp_path, torch_side):
  name, file = 'three_levels', tmp_path / 'diffusion_pytorch_model.safetensors'
  torch_side.vae(cases.VAES[name]).save_pretrained(tmp_path)
  tensors = old_names(safetensors.numpy.load_file(file))
  assert sum('proj_attn' in k for k in tensors) == 4
  safetensors.numpy.save_file(tensors, file, metadata={'format': 'pt'})
  theirs = torch_side.AutoencoderKL.from_pretrained(tmp_path, local_files_only=True)
  found = errors(run(*loaded(tmp_path, name, tensors), name), run_torch(torch_side, theirs, name))
  assert max(found.values()) < TOLERANCE, found


@pytest.mark.filterwarnings('ignore')
def test_torch_loads_what_save_writes(tmp_path, torch_side):
  from safetensors.torch import load_file
  name = 'two_levels'
  theirs = torch_side.vae(cases.VAES[name])
  model, params = loaded(tmp_path, name, {k: v.numpy() for k, v in theirs.state_dict().items()})
  params = jax.tree.map(lambda p: p + .01, params)
  safetensors_io.save(tmp_path / 'ours.safetensors', params, dtype=jnp.float32)
  theirs.load_state_dict(load_file(tmp_path / 'ours.safetensors'), strict=True)
  found = errors(run(model, params, name), run_torch(torch_side, theirs, name))
  assert max(found.values()) < TOLERANCE, found


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', cases.VAES)
def test_a_config_that_diffusers_wrote_is_read(torch_side, name):
  theirs = torch_side.AutoencoderKL(**cases.VAES[name])
  assert config_from_diffusers(dict(theirs.config)) == VAEConfig(**cases.VAES[name])
  assert config_from_diffusers(dict(torch_side.AutoencoderKL().config)) == VAEConfig()
