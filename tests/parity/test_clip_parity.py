"""CLIPTextModel is transformers' CLIPTextModel: keys, shapes, hidden states and the pooled row."""
import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdreamer.nn import weights
from jaxdreamer.nn.clip import CLIP_RENAME, CLIPTextModel, config_from_transformers

TOLERANCE = 2e-5                         # of the largest output; 3e-6 measured, wrong gelu 1e-4, wrong eps 1e-3


def run(tmp_path, name, tensors, config):
  """last_hidden_state and pooled of our model, read from a checkpoint of these tensors."""
  safetensors.numpy.save_file(tensors, tmp_path / 'clip.safetensors')
  model, ids = CLIPTextModel(config_from_transformers(config)), jnp.asarray(cases.clip_inputs(cases.CLIPS[name]))
  like = jax.eval_shape(model.init, jax.random.key(0), ids)['params']
  return model.apply({'params': weights.load(tmp_path / 'clip.safetensors', like, rename=CLIP_RENAME)}, ids)


def error(ours, theirs):
  """Largest difference, relative to the largest value."""
  return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize('prefix', ['', 'text_model.'])
@pytest.mark.parametrize('name', cases.CLIPS)
def test_clip_reproduces_stored_torch_outputs_from_new_and_old_files(tmp_path, name, prefix):
  golden = np.load(cases.GOLDEN / f'clip_{name}.npz')
  rows = [row.split('|') for row in golden['keys']]
  tensors = {prefix + k: cases.weight(k, tuple(int(n) for n in s.split(','))) for k, s in rows}
  if prefix:
    tensors['text_model.embeddings.position_ids'] = np.arange(12)[None]
  hidden, pooled = run(tmp_path, name, tensors, cases.CLIPS[name])
  assert error(hidden, golden['hidden']) < TOLERANCE
  assert error(pooled, golden['pooled']) < TOLERANCE


@pytest.fixture
def torch_side(recwarn):
  """make_golden.py, where torch and transformers are installed; their own warnings are not ours to fix."""
  pytest.importorskip('torch')
  pytest.importorskip('diffusers')
  pytest.importorskip('transformers')
  import make_golden
  return make_golden


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name, legacy', [('quick_gelu', {}), ('gelu', {}), ('gelu', {'eos_token_id': 2})])
def test_clip_agrees_with_the_live_torch_class(tmp_path, torch_side, name, legacy):
  import torch
  config = cases.CLIPS[name] | legacy    # eos_token_id 2 makes the torch class pool at the largest id
  theirs = torch_side.clip(config)
  tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
  hidden, pooled = run(tmp_path, name, tensors, config)
  with torch.no_grad():
    torch_hidden, torch_pooled = torch_side.run_clip(theirs, cases.clip_inputs(cases.CLIPS[name]))
  assert error(hidden, torch_hidden.numpy()) < TOLERANCE
  assert error(pooled, torch_pooled.numpy()) < TOLERANCE
