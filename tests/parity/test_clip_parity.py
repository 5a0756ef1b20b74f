"""CLIPTextModel, with and without projection, is transformers': keys, shapes, hidden states, pooled
row, embedding."""
import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdreamer.nn.clip import (
  CLIP_RENAME,
  TEXT_PROJECTION_RENAME,
  CLIPTextConfig,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  config_from_transformers,
)
from jaxdreamer.weights import safetensors_io

TOLERANCE = 2e-5  # of the largest output; 3e-6 measured, wrong gelu 1e-4, wrong eps 1e-3
TOLERANCE_BF16 = 2e-2                    # 8e-3 measured
OTHERS = {  # what a file of both towers, or of an older release, holds besides
    'vision_model.pre_layrnorm.weight': np.ones(3, np.float32),
          'visual_projection.weight': np.ones((3, 3), np.float32),
    'logit_scale': np.ones((), np.float32),
          'text_model.embeddings.position_ids': np.arange(12)[None]}


def run(tmp_path, name, tensors, config):
  """last_hidden_state, pooled and penultimate of our model, read from a checkpoint of these
  tensors."""
  safetensors.numpy.save_file(tensors, tmp_path / 'clip.safetensors')
  model, ids = CLIPTextModel(config_from_transformers(config)), jnp.asarray(
      cases.clip_inputs(cases.CLIPS[name]))
  like = jax.eval_shape(model.init, jax.random.key(0), ids)['params']
  return model.apply({'params': safetensors_io.load(tmp_path / 'clip.safetensors', like,
                                                    rename=CLIP_RENAME)}, ids)


def embedding(tmp_path, name, tensors, dtype=jnp.float32):
  """The embedding and the penultimate of our model with projection, read from a checkpoint of these
  tensors."""
  safetensors.numpy.save_file(tensors, tmp_path / 'clip.safetensors')
  model = CLIPTextModelWithProjection(config_from_transformers(cases.CLIPS[name]), dtype)
  ids = jnp.asarray(cases.clip_inputs(cases.CLIPS[name]))
  like = jax.eval_shape(model.init, jax.random.key(0), ids)['params']
  params = safetensors_io.load(tmp_path / 'clip.safetensors', like, rename=TEXT_PROJECTION_RENAME)
  return model.apply({'params': params}, ids)


def error(ours, theirs):
  """Largest difference, relative to the largest value."""
  return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.slow
@pytest.mark.parametrize('prefix', ['', 'text_model.'])
@pytest.mark.parametrize('name', cases.CLIPS)
def test_clip_reproduces_stored_torch_outputs_from_new_and_old_files(tmp_path, name, prefix):
  golden = np.load(cases.GOLDEN / f'clip_{name}.npz')
  rows = [row.split('|') for row in golden['keys']]
  tensors = {prefix + k: cases.weight(k, tuple(int(n) for n in s.split(','))) for k, s in rows}
  if prefix:
    tensors['text_model.embeddings.position_ids'] = np.arange(12)[None]
  for ours, theirs in zip(run(tmp_path, name, tensors, cases.CLIPS[name]),
                          ('hidden', 'pooled', 'penultimate')):
    assert error(ours, golden[theirs]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize('others', [{}, OTHERS], ids=['one tower', 'both towers'])
@pytest.mark.parametrize('name', cases.CLIPS)
def test_projection_reproduces_stored_torch_outputs(tmp_path, name, others):
  golden = np.load(cases.GOLDEN / f'clip_projection_{name}.npz')
  rows = [row.split('|') for row in golden['keys']]
  tensors = {k: cases.weight(k, tuple(int(n) for n in s.split(','))) for k, s in rows} | others
  for tolerance, dtype in ((TOLERANCE, jnp.float32), (TOLERANCE_BF16, jnp.bfloat16)):
    for ours, theirs in zip(embedding(tmp_path, name, tensors, dtype),
                            ('embedding', 'penultimate')):
      assert error(ours, golden[theirs]) < tolerance


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name, legacy', [('quick_gelu', {}), ('gelu', {}),
                                          ('gelu', {'eos_token_id': 2})])
def test_clip_agrees_with_the_live_torch_class(tmp_path, torch_side, name, legacy):
  import torch
  config = cases.CLIPS[name] | legacy  # eos_token_id 2 makes the torch class pool at the largest id
  theirs = torch_side.clip(config)
  tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
  with torch.no_grad():
    torch_out = torch_side.run_clip(theirs, cases.clip_inputs(cases.CLIPS[name]))
  for ours, out in zip(run(tmp_path, name, tensors, config), torch_out):
    assert error(ours, out.numpy()) < TOLERANCE


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', cases.CLIPS)
def test_projection_agrees_with_the_live_torch_class(tmp_path, torch_side, name):
  import torch
  theirs = torch_side.clip_projection(cases.CLIPS[name])
  with torch.no_grad():
    torch_out = torch_side.run_clip_projection(theirs, cases.clip_inputs(cases.CLIPS[name]))
  tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
  for ours, out in zip(embedding(tmp_path, name, tensors), torch_out):
    assert error(ours, out.numpy()) < TOLERANCE


@pytest.mark.filterwarnings('ignore')
def test_configs_that_transformers_wrote_are_read(torch_side):
  from transformers import CLIPConfig
  values = cases.CLIPS['gelu']
  theirs, ours = torch_side.CLIPTextConfig(**values, bos_token_id=1,
                                           pad_token_id=0), CLIPTextConfig(**values)
  both = CLIPConfig(text_config=theirs.to_dict() | {'projection_dim': 7}, projection_dim=40)
  assert config_from_transformers(theirs.to_dict()) == config_from_transformers(
      theirs.to_diff_dict()) == ours
  assert config_from_transformers(both.to_dict()) == config_from_transformers(
      both.to_diff_dict()) == ours
  left_out = config_from_transformers(torch_side.CLIPTextConfig().to_diff_dict())
  assert left_out == config_from_transformers(torch_side.CLIPTextConfig().to_dict())
