"""The hub, asked by alias; the library is a stand-in, and no network is touched."""
import fnmatch
import shutil
import sys
import types

import published
import pytest
from refusals import refused

from configs import base
from jaxdreamer import build
from jaxdreamer.weights import hub
from jaxdreamer.weights.diffusers_folder import open_model


@pytest.fixture
def asked(tmp_path, monkeypatch):
  """Stands in for huggingface_hub: repositories are folders of `tmp_path / remote`. Returns what
  was asked of it."""
  requests = []

  def snapshot_download(name, *, revision=None, allow_patterns=None):
    requests.append((name, revision))
    source, target = tmp_path / 'remote' / name, tmp_path / 'cache' / name
    if not source.is_dir():
      raise ConnectionError(f'404 Client Error: {name}\nmore')
    for file in source.rglob('*'):
      path = file.relative_to(source).as_posix()
      if file.is_file() and any(fnmatch.fnmatch(path, p) for p in allow_patterns):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target / path)
    return str(target)

  monkeypatch.setitem(sys.modules, 'huggingface_hub',
                      types.SimpleNamespace(snapshot_download=snapshot_download))
  return requests


def publish(tmp_path, name):
  home = tmp_path / 'remote' / name
  published.write_model(home)
  (home / 'safety_checker').mkdir()
  (home / 'safety_checker' / 'model.safetensors').write_bytes(b'large')
  shutil.copy(home / 'unet' / 'diffusion_pytorch_model.safetensors',
              home / 'unet' / 'diffusion_pytorch_model.non_ema.safetensors')
  return home


@pytest.mark.slow
def test_repositories_are_tried_in_turn_and_only_what_is_read_is_fetched(tmp_path, asked):
  first, second = hub.ALIASES['sd21-base'][:2]
  home = publish(tmp_path, second)
  path = hub.fetch('sd21-base')
  assert asked == [(first, None), (second, None)]
  assert open_model(path).keys() == {'unet', 'vae', 'text_encoder', 'tokenizer', 'scheduler'}
  left = {p.relative_to(home).as_posix() for p in home.rglob('*') if p.is_file()}
  left -= {p.relative_to(path).as_posix() for p in (tmp_path / 'cache' / second).rglob('*')}
  assert left == {'safety_checker/model.safetensors',
                  'unet/diffusion_pytorch_model.non_ema.safetensors'}


def test_half_precision_is_taken_where_there_is_nothing_else_and_a_revision_is_kept(
    tmp_path, asked):
  home = publish(tmp_path, 'me/mine')
  for part, stem in (('unet', 'diffusion_pytorch_model'), ('vae', 'diffusion_pytorch_model'),
                     ('text_encoder', 'model')):
    (home / part / f'{stem}.safetensors').rename(home / part / f'{stem}.fp16.safetensors')
  assert open_model(hub.fetch('me/mine@abc'))[
      'unet'].file.name == 'diffusion_pytorch_model.fp16.safetensors'
  assert asked == [('me/mine', 'abc')] * 2


def test_a_variant_that_is_alone_is_taken(tmp_path, asked):
  home = publish(tmp_path, 'me/mine')
  (home / 'unet' / 'diffusion_pytorch_model.safetensors').rename(
      home / 'unet' / 'diffusion_pytorch_model.bf16.safetensors')
  (home / 'unet' / 'diffusion_pytorch_model.non_ema.safetensors').unlink()
  assert open_model(hub.fetch('me/mine'))[
      'unet'].file.name == 'diffusion_pytorch_model.bf16.safetensors'
  assert len(asked) == 3


def test_the_error_says_of_each_repository_why_it_failed(tmp_path, asked):
  first, second, *_ = hub.ALIASES['sd21-base']
  (tmp_path / 'remote' / second).mkdir(parents=True)
  (tmp_path / 'remote' / second / 'other.json').write_text('{}')
  with refused('404 Client Error', FileNotFoundError) as error:
    hub.fetch('sd21-base')
  said = str(error.value)
  assert all(repository in said for repository in hub.ALIASES['sd21-base'])
  assert 'model_index.json' in said and 'config.prior.path' in said


def test_an_unknown_alias_and_a_missing_library_are_told(monkeypatch):
  with pytest.raises(ValueError, match='config.prior.hub=.sd3.: takes one of'):
    hub.fetch('sd3')
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(ValueError, match=r'jaxdreamer\[hub\]'):
    hub.fetch('sd15')


def test_the_config_asks_and_its_path_wins(tmp_path, asked):
  config = base.get_config()
  config.prior.update({'name': 'stable_diffusion', 'hub': 'sd15', 'path': str(tmp_path / 'here')})
  with pytest.raises(FileNotFoundError, match='here'):
    build.training(config, build.make_mesh(config))
  assert not asked
  config.prior.path = ''
  with pytest.raises(FileNotFoundError, match='config.prior.hub'):
    build.training(config, build.make_mesh(config))
  assert [name for name, _ in asked] == list(hub.ALIASES['sd15'])
