"""CLIP's opinion of a run: what it computes, under which protocol, and what it refuses."""
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxdreamer import clip_score, evaluate
from jaxdreamer.nn import clip, clip_vision
from jaxdreamer.objects import Object
from jaxdreamer.types import Rendering
from jaxdreamer.weights import clip_tokens, safetensors_io


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('clip')
  return folder, published.write_clip(folder)


@pytest.mark.slow
def test_both_towers_are_those_of_the_file(model):
  """Any number of pictures and of texts, in batches or not."""
  folder, config = model
  see, read = clip_score.load(str(folder))
  x, texts = np.asarray(jax.random.uniform(jax.random.key(1), (11, 20, 20, 3))), ['a red mug', '']
  tower = clip_vision.CLIPVisionModelWithProjection(clip_vision.config_from_transformers(config))
  like = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  weights = safetensors_io.load(folder / 'model.safetensors', like,
                                rename=clip_vision.VISION_RENAME)
  expected = tower.apply({'params': weights}, clip_vision.preprocess(jnp.asarray(x), size=16))
  expected /= jnp.linalg.norm(expected, axis=-1, keepdims=True)
  np.testing.assert_allclose(see(x), expected, atol=1e-5)
  reader = clip.CLIPTextModelWithProjection(clip.config_from_transformers(config))
  like = jax.eval_shape(reader.init, jax.random.key(0), jnp.zeros((1, 77), jnp.int32))['params']
  weights = safetensors_io.load(folder / 'model.safetensors', like,
                                rename=clip.TEXT_PROJECTION_RENAME)
  rows, _ = reader.apply({'params': weights}, jnp.asarray(clip_tokens.load(folder)(texts)))
  np.testing.assert_allclose(read(texts), rows / jnp.linalg.norm(rows, axis=-1, keepdims=True),
                             atol=1e-5)


@pytest.mark.slow
def test_a_folder_of_todays_transformers_is_read(model, tmp_path):
  """tokenizer.json in place of vocab.json and merges.txt."""
  folder = shutil.copytree(model[0], tmp_path / 'clip')
  for name in ('vocab.json', 'merges.txt', 'special_tokens_map.json', 'tokenizer_config.json'):
    (folder / name).unlink()
  with pytest.raises(FileNotFoundError, match='tokenizer.json'):
    clip_score.load(str(folder))
  published.write_new_tokenizer(folder)
  np.testing.assert_array_equal(clip_score.load(str(folder))[1](['a red mug']),
                                clip_score.load(str(model[0]))[1](['a red mug']))


def test_similarity_and_recall_of_known_directions():
  images, texts = np.eye(3)[[0, 0, 1, 2]], np.eye(3)
  assert clip_score.similarity(images, texts[0]) == .5
  assert [clip_score.recall_at_1(images, texts, k) for k in range(3)] == [.5, .25, .25]


def test_a_run_is_scored_under_a_named_protocol(model, tmp_path, monkeypatch):
  folder, _ = model
  monkeypatch.setitem(clip_score.PROTOCOLS, 'scaledreamer', clip_score.Protocol(3, .2))
  seen = []
  def render(camera, background):
    seen.append(camera)
    picture = jax.random.uniform(jax.random.key(len(seen)), (24, 24, 3))
    return Rendering(picture, *[jnp.ones((24, 24))] * 2, picture, *[jnp.ones((24, 24))] * 3)
  object = Object(render, None, None, 1., 24)
  scores = evaluate.score_clip(tmp_path, 'a red mug', 7, object, model=str(folder),
                               texts=['a mug', 'a red mug'], protocol='scaledreamer')
  written = json.loads((tmp_path / 'clip.json').read_text())
  assert written['scores'] == scores and -1. <= scores['clip_similarity'] <= 1.
  assert scores['clip_recall_at_1'] in (0., 1 / 3, 2 / 3, 1.)
  assert len(seen) == 3 and all(abs(float(camera.elevation) - .2) < 1e-6 for camera in seen)
  for part in (folder.name, '3 views at 11 degrees', '2 prompts'):
    assert part in written['protocol']


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='--clip'):
    clip_score.load(str(tmp_path))
  (tmp_path / 'prompts.txt').write_text('a cat\n\n a dog \n')
  assert evaluate.read_prompts(str(tmp_path / 'prompts.txt'), 'a dog') == ['a cat', 'a dog']
  (tmp_path / 'marked.txt').write_text('a dog\na cat\n', encoding='utf-8-sig')
  assert evaluate.read_prompts(str(tmp_path / 'marked.txt'), 'a dog') == ['a dog', 'a cat']
  (tmp_path / 'other.txt').write_text('a dog\n', encoding='utf-16')
  with pytest.raises(ValueError, match='--prompts: .*other.txt line 1 .*UTF-16'):
    evaluate.read_prompts(str(tmp_path / 'other.txt'), 'a dog')
  with pytest.raises(FileNotFoundError, match='--prompts='):
    evaluate.read_prompts(str(tmp_path / 'none.txt'), 'a dog')
  with pytest.raises(ValueError, match='not among its 2 lines'):
    evaluate.read_prompts(str(tmp_path / 'prompts.txt'), 'a bird')
