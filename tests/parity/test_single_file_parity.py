"""Folders that diffusers writes are read, and single files mean to us what they mean to diffusers'
own converter."""
import functools

import cases
import jax
import jax.numpy as jnp
import ldm_layout
import numpy as np
import pytest
import safetensors.numpy

from jaxdreamer.weights import safetensors_io, tensor_files
from jaxdreamer.weights.diffusers_folder import load_part, open_model

UNET = cases.UNETS['sd1'] | dict(block_out_channels=(16, 32, 32), attention_head_dim=8)
VAE = cases.VAES['three_levels']
CLIP = cases.CLIPS['gelu'] | dict(hidden_size=64, num_attention_heads=1)


def published(model):
  """{key: tensor} of a torch model."""
  return {k: v.numpy() for k, v in model.state_dict().items() if v.dtype.is_floating_point}


def like_of(tensors):
  """A tree, flat but for the last word, that holds each tensor under its published key as it is
  stored."""
  return {k: jax.ShapeDtypeStruct(v.shape, jnp.float32) for k, v in tensors.items()}


def read(part, theirs):
  """A part's tensors by their published keys, loaded as they are stored: a name of one word is no
  kernel."""
  return load_part(part, like_of(theirs), dtype=jnp.float32)


def assert_same(ours, theirs):
  assert ours.keys() == theirs.keys()
  for key in theirs:
    np.testing.assert_array_equal(ours[key], theirs[key], key)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('options', [{}, {'max_shard_size': '60KB'}, {'variant': 'fp16'}],
                         ids=['plain', 'shards', 'variant'])
def test_a_folder_that_diffusers_wrote_is_read(tmp_path, torch_side, options):
  import diffusers
  from transformers import CLIPTokenizer
  vocabulary = {word: i for i, word in enumerate(['a', 'a</w>', '<|startoftext|>',
                                                  '<|endoftext|>'])}
  tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[])
  network = torch_side.filled(diffusers.UNet2DConditionModel(**UNET))
  parts = {'unet': network, 'vae': torch_side.vae(VAE), 'text_encoder': torch_side.clip(CLIP)}
  pipeline = diffusers.StableDiffusionPipeline(
      **parts, tokenizer=tokenizer,
      scheduler=diffusers.DDIMScheduler(prediction_type='v_prediction'), safety_checker=None,
      feature_extractor=None, requires_safety_checker=False)
  pipeline.save_pretrained(tmp_path, **options)
  found = open_model(tmp_path)
  assert found['scheduler']['prediction_type'] == 'v_prediction'
  assert (found['unet'].file.suffix == '.json') == ('max_shard_size' in options)
  for name, theirs in parts.items():
    tensors = {k.removeprefix('text_model.'): v for k, v in published(theirs).items()}
    assert_same(read(found[name], tensors), tensors)


def single(tmp_path, theirs, layout, prefix):
  """One part in the old layout, as one file, and its torch tensors."""
  import torch
  tensors = {prefix + k: v for k, v in layout(published(theirs)).items()}
  safetensors.numpy.save_file(tensors, tmp_path / 'x.safetensors')
  return {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}


def converted(path, parse, names):
  """What our rows make of a file, under their published keys."""
  with tensor_files.opened_all(path) as files:
    _, rows = parse(files[0])
  return safetensors_io.load(path, like_of(names), rename=rows)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('part', ['unet', 'vae', 'text_encoder'])
def test_a_single_files_part_is_what_diffusers_makes_of_it(tmp_path, torch_side, part):
  import diffusers
  from diffusers.loaders import single_file_utils as theirs

  from jaxdreamer.weights import ldm_parts, single_file
  if part == 'unet':
    model = torch_side.filled(diffusers.UNet2DConditionModel(**UNET))
    old = single(tmp_path, model, functools.partial(ldm_layout.unet, config=UNET), ldm_parts.UNET)
    expected, parse = theirs.convert_ldm_unet_checkpoint(
        old, dict(model.config)), lambda f: ldm_parts.unet(f, lambda c: 8)
  elif part == 'vae':
    model = torch_side.vae(VAE)
    old = single(tmp_path, model, functools.partial(ldm_layout.vae, config=VAE), ldm_parts.VAE)
    expected, parse = theirs.convert_ldm_vae_checkpoint(
        old, dict(model.config)), lambda f: ldm_parts.vae(f, 1.)
  else:
    # theirs cuts the fused layer by the projection's width
    model = torch_side.clip_projection(CLIP | {'projection_dim': 64})
    bare = lambda t: ldm_layout.open_clip({k.removeprefix('text_model.'): v for k, v in t.items()})
    old = single(tmp_path, model, bare, single_file.OPEN_CLIP_XL)
    expected = theirs.convert_open_clip_checkpoint(model, old, prefix=single_file.OPEN_CLIP_XL)
    expected = {k: v for k, v in expected.items() if 'position_ids' not in k}
    parse = lambda f: ldm_parts.open_clip(f, single_file.OPEN_CLIP_XL, True)
  expected = {k: v.numpy() for k, v in expected.items()}
  assert {k: v.shape for k, v in expected.items()} == {k: v.shape
                                                       for k, v in published(model).items()}
  assert_same(converted(tmp_path / 'x.safetensors', parse, expected), expected)
