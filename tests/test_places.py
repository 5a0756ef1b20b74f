"""A run is made of the content of files, wherever they lie: moved weights go on, others are
refused, a scene needs none."""
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from configs import base, toybox_amortised
from jaxdreamer import build, checkpoints, objects, places, runs, workdirs
from jaxdreamer.types import TrainState


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  home = tmp_path_factory.mktemp('models') / 'one'
  published.write_model(home)
  return home


def config_of(path, **changes):
  config = base.get_config()
  config.prior.update({'name': 'stable_diffusion', 'path': os.fspath(path)})
  config.update_from_flattened_dict({'scene.voxels.levels': (4,), 'eval.size': 8, 'eval.samples': 4,
                                     'render.background': 'white'}
                                    | changes)
  return config


def trained(workdir, config):
  """A run that was claimed and saved once, with nothing but its scene and step; returns the scene's
  parameters."""
  workdirs.claim(workdir, config.to_dict(), contents=places.contents(config))
  scene = build.make_scene(config).init(jax.random.key(3))
  state = TrainState(jnp.int32(7), {'scene': scene, 'est': {'lora': jnp.ones(3)}}, (),
                     jax.random.key(0))
  with checkpoints.manager(workdir) as saved:
    checkpoints.save(saved, 7, state, {})
  return scene


def test_a_moved_model_is_the_same_and_a_changed_one_another(model, tmp_path, monkeypatch):
  first = places.contents(config_of(model))
  assert first['prior.path'].startswith('sha256 ')
  moved = shutil.copytree(model, tmp_path / 'elsewhere')
  monkeypatch.chdir(tmp_path)
  for path in (moved, 'elsewhere', './elsewhere/../elsewhere/'):
    assert places.contents(config_of(path)) == first
  # no weight
  (moved / 'model_index.json').write_text((moved / 'model_index.json').read_text() + ' ')
  assert places.contents(config_of(moved)) == first
  file = moved / 'vae' / 'diffusion_pytorch_model.safetensors'
  raw = bytearray(file.read_bytes())
  raw[-1] ^= 1
  file.write_bytes(raw)
  assert places.contents(config_of(moved)) != first


def test_each_option_that_names_a_place_is_known_by_content(model, tmp_path):
  files = {name: tmp_path / name for name in ('one.safetensors', 'same.safetensors',
                                              'other.safetensors')}
  for i, path in enumerate(files.values()):
    safetensors.numpy.save_file({'x': np.array([i // 2], np.float32)}, path)
  one, same, other = map(os.fspath, files.values())
  for option in ('prior.lora', 'estimator.ssd.depth', 'estimator.ssd.normals',
                 'prior.stable_diffusion.tokenizer'):
    of = lambda path, option=option: places.contents(
        config_of(model, **{option: path, 'estimator.name': 'ssd'}))
    assert of(one) == of(same) and of(one)[option] != of(other)[option]
    assert option not in of('') and option not in of(os.fspath(tmp_path / 'none'))
  for name, text in (('a.txt', 'x\ny\n'), ('b.json', '["x", "y"]'), ('c.txt', 'y\nx\n')):
    (tmp_path / name).write_text(text)
  a, b, c = (places.contents(config_of(model, **{'corpus.path': os.fspath(tmp_path / name)}))[
      'corpus.path']
             for name in ('a.txt', 'b.json', 'c.txt'))
  assert a == b != c
  assert places.contents(config_of(model, **{'corpus.store': 'x'}))['corpus.store'] == ''
  assert places.contents(ConfigDict({'prompt': 'x', 'corpus': {'path': ''}})) == {}


def test_a_run_goes_on_with_moved_weights_and_not_with_others(model, tmp_path):
  trained(tmp_path / 'run', config := config_of(model))
  name = workdirs.fingerprint(config.to_dict(), contents=places.contents(config))
  moved = config_of(shutil.copytree(model, tmp_path / 'moved'))
  workdirs.claim(tmp_path / 'run', moved.to_dict(), contents=places.contents(moved))
  assert name == workdirs.fingerprint(moved.to_dict(), contents=places.contents(moved))
  assert workdirs.read_options(tmp_path / 'run')['prior']['path'] == os.fspath(
      tmp_path / 'moved')
  published.write_model(tmp_path / 'other', seed=5)
  other = config_of(tmp_path / 'other')
  with pytest.raises(ValueError, match='another config: prior.path is .sha256'):
    workdirs.claim(tmp_path / 'run', other.to_dict(), contents=places.contents(other))
  assert name != workdirs.fingerprint(other.to_dict(), contents=places.contents(other))


def test_a_run_of_before_contents_were_known_is_known_by_its_places(model, tmp_path):
  config = config_of(model)
  workdirs.claim(tmp_path, config.to_dict())
  (tmp_path / 'checkpoints' / '000001').mkdir()
  workdirs.claim(tmp_path, config.to_dict(), contents=places.contents(config))


def test_the_scene_is_read_alone_when_the_weights_are_gone(model, tmp_path):
  home = shutil.copytree(model, tmp_path / 'gone')
  config = config_of(home)
  scene = trained(tmp_path / 'run', config)
  shutil.rmtree(home)
  _, model, params, step = runs.restore(tmp_path / 'run')
  assert step == 7 and model.prompts == (config.prompt,) and model.embed(config.prompt) is None
  jax.tree.map(np.testing.assert_array_equal, params, scene)
  assert np.isfinite(model.object(params, config.prompt).density(jnp.zeros((2, 3)))).all()
  with pytest.raises(ValueError, match='no finished checkpoint'):
    workdirs.claim(tmp_path / 'new', config.to_dict())
    runs.restore(tmp_path / 'new')


def test_generators_are_told_by_the_prior_where_it_is_now(tmp_path, monkeypatch):
  config = toybox_amortised.get_config()
  assert objects.reads_text(build.make_scene(config)) and not objects.reads_text(
      build.make_scene(base.get_config()))
  for name in ('conv3d', 'triplane_transformer', 'hyper_ingp'):
    config.scene.name = name
    assert objects.reads_text(build.make_scene(config))
  for name, value in (('here', 0.), ('there', 0.), ('other', 1.)):
    safetensors.numpy.save_file({'x': np.array([value], np.float32)},
                                tmp_path / f'{name}.safetensors')
  config.prior.path = os.fspath(tmp_path / 'here.safetensors')
  known = places.contents(config)
  os.remove(tmp_path / 'here.safetensors')
  places.move(config, os.fspath(tmp_path / 'there.safetensors'), ('', ''), known=known)
  assert config.prior.path.endswith('there.safetensors')
  with pytest.raises(FileNotFoundError, match=r'leads nowhere: give --prior, where its weights '
                     r'\(sha256'):
    places.move(config, os.fspath(tmp_path / 'here.safetensors'), (), known=known)
  with pytest.raises(ValueError, match='other.safetensors.* holds sha256 .*trained with sha256 '
                     '.*--prior'):
    places.move(config, os.fspath(tmp_path / 'other.safetensors'), (), known=known)
  with pytest.raises(ValueError, match="--tokenizer=x: config.prior.name='toybox' of this run "
                     "takes none"):
    places.move(config, '', ('x', ''), known=known)
  config = config_of(tmp_path / 'there.safetensors')
  places.move(config, '', ('x', ''), known={})
  assert config.prior.stable_diffusion.tokenizer == 'x'
