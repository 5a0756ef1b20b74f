"""CLIPVisionModelWithProjection is transformers' class, and preprocess its image processor."""
import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdreamer.nn.clip_vision import (
  MEAN,
  STD,
  VISION_RENAME,
  CLIPVisionConfig,
  CLIPVisionModelWithProjection,
  config_from_transformers,
  preprocess,
)
from jaxdreamer.weights import safetensors_io

TOLERANCE = 2e-5                         # of the largest output; 1e-6 measured
TOLERANCE_BF16 = 2e-2                    # 1.1e-2 measured
OTHERS = {  # what a file of both towers, or of an older release, holds besides
    'text_model.final_layer_norm.weight': np.ones(3, np.float32),
          'text_projection.weight': np.ones((3, 3), np.float32),
    'logit_scale': np.ones((), np.float32),
          'vision_model.embeddings.position_ids': np.arange(10)[None]}


def run(tmp_path, name, tensors, dtype=jnp.float32):
  """Our embedding, from a checkpoint of these tensors."""
  safetensors.numpy.save_file(tensors, tmp_path / 'vision.safetensors')
  model = CLIPVisionModelWithProjection(config_from_transformers(cases.VISIONS[name]), dtype)
  image = jnp.asarray(cases.vision_inputs(cases.VISIONS[name]))
  like = jax.eval_shape(model.init, jax.random.key(0), image)['params']
  params = safetensors_io.load(tmp_path / 'vision.safetensors', like, rename=VISION_RENAME)
  return jax.jit(model.apply)({'params': params}, image)


def drawn(rows):
  """The weights of a case, from a golden file's list of keys."""
  return {k: cases.weight(k, tuple(int(n) for n in s.split(',')))
          for k, s in (row.split('|') for row in rows)}


def error(ours, theirs):
  """Largest difference, relative to the largest value."""
  return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize('others', [{}, OTHERS], ids=['one tower', 'both towers'])
@pytest.mark.parametrize('name', cases.VISIONS)
def test_vision_reproduces_stored_torch_outputs(tmp_path, name, others):
  golden = np.load(cases.GOLDEN / f'clip_vision_{name}.npz')
  assert error(run(tmp_path, name, drawn(golden['keys']) | others), golden['embedding']) < TOLERANCE


@pytest.mark.parametrize('name', cases.VISIONS)
def test_vision_in_bfloat16_stays_near_the_stored_torch_outputs(tmp_path, name):
  golden = np.load(cases.GOLDEN / f'clip_vision_{name}.npz')
  assert error(run(tmp_path, name, drawn(golden['keys']), jnp.bfloat16),
               golden['embedding']) < TOLERANCE_BF16


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', cases.VISIONS)
def test_vision_agrees_with_the_live_torch_class(tmp_path, torch_side, name):
  import torch
  theirs = torch_side.vision(cases.VISIONS[name])
  with torch.no_grad():
    torch_out = torch_side.run_vision(theirs, cases.vision_inputs(cases.VISIONS[name])).numpy()
  assert error(run(tmp_path, name, {k: v.numpy() for k, v in theirs.state_dict().items()}),
               torch_out) < TOLERANCE


@pytest.mark.filterwarnings('ignore')
def test_configs_that_transformers_wrote_are_read(torch_side):
  from transformers import CLIPConfig
  theirs = torch_side.CLIPVisionConfig(**cases.VISIONS['gelu'])
  ours = CLIPVisionConfig(**cases.VISIONS['gelu'])
  both = CLIPConfig(vision_config=cases.VISIONS['gelu'] | {'projection_dim': 7}, projection_dim=40)
  assert config_from_transformers(theirs.to_dict()) == config_from_transformers(
      theirs.to_diff_dict()) == ours
  assert config_from_transformers(both.to_dict()) == config_from_transformers(
      both.to_diff_dict()) == ours
  left_out = config_from_transformers(torch_side.CLIPVisionConfig().to_diff_dict())
  assert left_out == config_from_transformers(torch_side.CLIPVisionConfig().to_dict())


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('shape', [(40, 40), (31, 53), (70, 45), (9, 11), (24, 24)])
def test_preprocess_is_the_image_processor_but_for_its_rounding(torch_side, shape):
  module = pytest.importorskip('transformers.models.clip.image_processing_pil_clip')
  # PIL clips after each axis
  x = np.random.RandomState(0).randint(64, 192, (2, *shape, 3)).astype(np.uint8)
  processor = module.CLIPImageProcessorPil(size={'shortest_edge': 24},
                                           crop_size={'height': 24, 'width': 24})
  theirs = processor(list(x), return_tensors='np')['pixel_values'].transpose(0, 2, 3, 1)
  ours = preprocess(jnp.asarray(x / np.float32(255)), size=24)
  # grey levels; PIL rounds after each axis
  assert np.abs((np.asarray(ours) - theirs) * STD * 255).max() < 1.7
  assert np.allclose(MEAN, processor.image_mean)
  assert np.allclose(STD, processor.image_std)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('shape', [(41, 30), (9, 11)])
def test_the_resizing_of_preprocess_is_torchs(torch_side, shape):
  import torch
  x = .5 + .2 * cases.random('resized', 1, *shape, 3).clip(-1, 1)         # no overshoot to clip
  size = 20, 20 * shape[1] // shape[0]
  if shape[1] < shape[0]:
    size = 20 * shape[0] // shape[1], 20
  theirs = torch.nn.functional.interpolate(torch.from_numpy(x).permute(0, 3, 1, 2), size,
                                           mode='bicubic', antialias=True)
  top, left = (size[0] - 20) // 2, (size[1] - 20) // 2
  theirs = theirs.permute(0, 2, 3, 1)[:, top:top + 20, left:left + 20].numpy()
  np.testing.assert_allclose(preprocess(jnp.asarray(x), size=20) * STD[None, None, None]
                             + MEAN[None, None, None], theirs,
                             atol=2e-6)
