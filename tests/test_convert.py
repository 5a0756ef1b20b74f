"""Whatever a model was published as becomes a folder of safetensors: the same numbers to the bit,
and what is not weights is refused. What torch pickled is converted where torch is installed."""
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import safetensors.numpy
from refusals import refused

from jaxdreamer import convert
from jaxdreamer.priors import latent
from jaxdreamer.priors.mvdream import mvdream
from jaxdreamer.weights import conversion, hub, loras, networks, pickles, safe_files, torch_worker
from jaxdreamer.weights.diffusers_folder import Part, load_part, open_model

ROOT = pathlib.Path(__file__).resolve().parents[1]
QUIET = {'say': lambda line: None}
ERRORS = ValueError, FileNotFoundError


def made(source, folder, **options):
  """The folder that --from=source becomes."""
  convert.convert(str(source), folder, **QUIET | options)
  return folder


def tensors(folder):
  """{part: {published key: tensor}} of a folder, by the last two words of a key's own prefix."""
  return {name: {key.removeprefix('text_model.') if name == 'text_encoder' else key: x
                 for key, x in safetensors.numpy.load_file(
                     folder / name / f'{stem}.safetensors').items()}
          for name, stem in hub.NETWORKS.items() if (folder / name).is_dir()}


def same(ours, theirs):
  """Whether two tables of tensors are equal to the bit."""
  return ours.keys() == theirs.keys() and all(
      x.dtype == theirs[key].dtype and np.array_equal(x.view(np.uint8), theirs[key].view(np.uint8))
      for key, x in ours.items())


def params(parts, name):
  """A part's parameters in float32."""
  like = networks.network(name, parts[name].config).like()
  return load_part(parts[name], like, dtype=jnp.float32)


def equal(a, b):
  """Whether two trees of arrays are equal."""
  return jax.tree.structure(a) == jax.tree.structure(b) and all(
      np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.fixture(scope='module')
def single(tmp_path_factory):
  """The folder of an MVDream in one file, with its tokenizer."""
  folder = tmp_path_factory.mktemp('mvdream')
  published.write_mvdream(folder)
  return folder


@pytest.mark.slow
def test_a_folder_is_converted_to_the_bit_and_says_where_it_came_from(model, tmp_path):
  source = shutil.copytree(model[0], tmp_path / 'source')
  (source / 'README.md').write_text('---\nlicense: creativeml-openrail-m\nlicense_name: x\ntags:\n'
                                    '- license: no\n---\n# A model\nlicense: not this\n')
  said = []
  record = convert.convert(str(source), tmp_path / 'to', say=said.append)
  ours, theirs = tensors(tmp_path / 'to'), tensors(source)
  assert ours.keys() == theirs.keys() == {'unet', 'vae', 'text_encoder'}
  assert all(same(ours[name], theirs[name]) for name in ours)
  assert json.loads((tmp_path / 'to' / conversion.RECORD).read_text()) == record
  assert record['source'] == str(source) and record['lora'] == {}
  assert record['license'] == 'license: creativeml-openrail-m, license_name: x'
  assert record['sha256'] == {f'{name}/{stem}.safetensors': hashlib.sha256(
      (tmp_path / 'to' / name / f'{stem}.safetensors').read_bytes()).hexdigest()
                              for name, stem in hub.NETWORKS.items() if name in ours}
  parts, before = open_model(tmp_path / 'to', sha256=record['sha256']), open_model(source)
  assert parts.keys() == before.keys() and parts['scheduler'] == before['scheduler']
  assert all(parts[name].config == before[name].config for name in ours)
  assert [line for line in said if 'wrote unet' in line and 'MiB, float32' in line]
  assert {path.name for path in tmp_path.iterdir()} == {'source', 'to'}
  assert not (tmp_path / 'to' / conversion.SCRATCH).exists()


@pytest.mark.slow
def test_xl_keeps_both_its_towers_and_what_its_index_says(tmp_path):
  published.write_sdxl(tmp_path / 'source')
  ours, theirs = tensors(made(tmp_path / 'source', tmp_path / 'to')), tensors(tmp_path / 'source')
  assert 'text_encoder_2' in ours and all(same(ours[name], theirs[name]) for name in theirs)
  index = json.loads((tmp_path / 'to' / 'model_index.json').read_text())
  assert index['force_zeros_for_empty_prompt'] is True
  assert index['_class_name'] == 'StableDiffusionXLPipeline'
  assert open_model(tmp_path / 'to').keys() == open_model(tmp_path / 'source').keys()
  assert '--config.prior.name=sdxl' in convert.command_for(tmp_path / 'to')


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_another_dtype_is_the_nearest_numbers_of_it(model, tmp_path, dtype):
  ours = tensors(made(model[0], tmp_path / 'to', dtype=dtype))
  for name, theirs in tensors(model[0]).items():
    assert same(ours[name], {key: x.astype(jnp.dtype(dtype)) for key, x in theirs.items()})
  again = tensors(made(tmp_path / 'to', tmp_path / 'again'))             # it keeps what it has
  assert all(same(again[name], ours[name]) for name in ours)


@pytest.mark.slow
def test_the_variant_that_is_asked_for_is_taken(model, tmp_path):
  source = shutil.copytree(model[0], tmp_path / 'source')
  doubled = {}
  for name, table in tensors(model[0]).items():
    doubled[name] = {key: 2 * x for key, x in table.items()}
    safetensors.numpy.save_file(doubled[name],
                                source / name / f'{hub.NETWORKS[name]}.ema.safetensors')
  ours = tensors(made(source, tmp_path / 'to', variant='ema'))
  assert all(same(ours[name], doubled[name]) for name in ours)
  with refused(r"no weights of the variant 'x' in .*unet: it holds \['config.json'", ERRORS):
    made(source, tmp_path / 'no', variant='x')
  assert not (tmp_path / 'no').exists()


def with_lora(path):
  """A LoRA file over a layer of the UNet and one of the text encoder."""
  noise = np.random.RandomState(0)
  draw = lambda *shape: noise.standard_normal(shape).astype(np.float32)
  safetensors.numpy.save_file({
    'lora_unet_mid_block_attentions_0_proj_in.lora_down.weight': draw(2, 64, 1, 1),
    'lora_unet_mid_block_attentions_0_proj_in.lora_up.weight': draw(64, 2, 1, 1),
    'lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight': draw(2, 32),
    'lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight': draw(64, 2)}, path)
  return path


@pytest.mark.slow
def test_a_lora_is_fused_as_training_adds_it(model, tmp_path):
  lora = with_lora(tmp_path / 'x.safetensors')
  record = convert.convert(str(model[0]), tmp_path / 'to', lora=str(lora), lora_scale=.7, **QUIET)
  plain = open_model(model[0])
  beside = loras.added(plain, lora, scale=.7, option='--lora')
  fused = open_model(tmp_path / 'to')
  for name in ('unet', 'vae', 'text_encoder'):
    assert equal(params(fused, name), params(beside, name))
    assert equal(params(fused, name), params(plain, name)) == (name == 'vae')
  assert record['lora'] == {'file': str(lora), 'scale': .7, 'sha256': safe_files.sha256_of(lora)}


def given(single):
  return {'tokenizers': {'tokenizer': str(single / 'tokenizer')}}


@pytest.fixture(scope='module')
def converted(single, tmp_path_factory):
  """The folder that the one file becomes."""
  return made(single / 'mvdream.safetensors', tmp_path_factory.mktemp('converted') / 'to',
              **given(single))


@pytest.mark.slow
def test_a_single_file_becomes_the_folder_that_the_same_prior_opens(single, converted):
  """The same weights, forward process, text and network, so the same predictions."""
  ours = mvdream(path=str(converted), image_size=8, dtype='float32')
  theirs = mvdream(path=str(single / 'mvdream.safetensors'), image_size=8, dtype='float32',
                   tokenizer=str(single / 'tokenizer'))
  assert ours.latent == theirs.latent and ours.views_per_scene == theirs.views_per_scene
  t = jnp.linspace(0., 1., 5)
  assert equal(ours.weights, theirs.weights)
  assert equal(ours.schedule.alpha(t), theirs.schedule.alpha(t))
  assert equal(ours.embed('a red mug', 'red'), theirs.embed('a red mug', 'red'))
  before = open_model(single / 'mvdream.safetensors')
  assert all(part.config == before[name].config for name, part in open_model(converted).items()
             if isinstance(part, Part))
  assert 'scaledreamer_mvdream' in convert.command_for(converted)
  index = json.loads((converted / 'model_index.json').read_text())
  assert index['unet'] == ['diffusers', 'UNet2DConditionModel']
  assert json.loads((converted / 'scheduler' / 'scheduler_config.json').read_text()).items(
      ) >= {'prediction_type': 'epsilon', '_class_name': 'DDIMScheduler'}.items()


def test_a_single_file_wants_what_it_does_not_hold(single, model, tmp_path):
  source = single / 'mvdream.safetensors'
  for options, said in (({}, 'one file, which holds no tokenizer: give --tokenizer'),
                        ({'variant': 'fp16'}, '--variant=fp16: .* has no variants')):
    with refused(said):
      made(source, tmp_path / 'to', **options)
  with refused('--tokenizer is for single files'):
    made(model[0], tmp_path / 'to', **given(single))
  table = safetensors.numpy.load_file(source)
  silent = tmp_path / 'sd21.safetensors'
  half = {key: x if key == 'betas' else x.astype(np.float16) for key, x in table.items()
          if 'camera_embed' not in key}
  safetensors.numpy.save_file(half, silent)
  with refused('sd21.safetensors does not say what its UNet predicts: give --prediction'):
    made(silent, tmp_path / 'to', **given(single))
  made(silent, tmp_path / 'to', prediction='v_prediction', **given(single))
  assert latent.schedule_of(open_model(tmp_path / 'to')['scheduler']).predicted == 'v_prediction'
  assert all(x.dtype == np.float16 for part in tensors(tmp_path / 'to').values()
             for x in part.values())     # the schedule's own table, which is not, is no weight


def test_a_folder_that_holds_something_is_left_alone(model, tmp_path):
  (tmp_path / 'to').mkdir()
  (tmp_path / 'to' / 'thesis.tex').write_text('all of it')
  with refused('to is there already'):
    made(model[0], tmp_path / 'to')
  assert [path.name for path in tmp_path.rglob('*')] == ['to', 'thesis.tex']


@pytest.mark.slow
def test_a_tensor_that_is_missing_from_the_last_part_leaves_nothing(model, tmp_path):
  source = shutil.copytree(model[0], tmp_path / 'source')
  file = source / 'text_encoder' / 'model.safetensors'
  table = safetensors.numpy.load_file(file)
  table.pop('text_model.final_layer_norm.bias')
  safetensors.numpy.save_file(table, file)
  with refused(r"model.safetensors does not fit the model: missing \['final_layer_norm.bias'\]"):
    made(source, tmp_path / 'to')
  assert [path.name for path in tmp_path.iterdir()] == ['source']


def test_a_pickle_without_torch_says_which_extra(tmp_path, monkeypatch):
  (tmp_path / 'x.ckpt').write_bytes(pickles.LEGACY + bytes(99))
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'torch' else
                      find(name))
  with refused(r"x.ckpt needs torch: pip install 'jaxdreamer\[convert\]'"):
    made(tmp_path / 'x.ckpt', tmp_path / 'to')


def test_the_hub_is_asked_for_pickles_last_and_a_gate_is_named(monkeypatch, model, tmp_path):
  asked = []

  class GatedRepoError(OSError):
    pass

  def fetch(name, *, revision, allow_patterns):
    asked.append((name, allow_patterns))
    if name == 'me/gated':
      raise GatedRepoError('401')
    home = tmp_path / 'cache'
    if any('bin' in pattern for pattern in allow_patterns) and not home.exists():
      shutil.copytree(model[0], home)
      for file in home.rglob('*.safetensors'):
        name = file.stem.replace('model', 'pytorch_model') if file.stem == 'model' else file.stem
        file.rename(file.with_name(f'{name}.bin'))
    empty = tmp_path / 'empty'
    if not empty.exists():
      shutil.copytree(model[0], empty, ignore=shutil.ignore_patterns('*.safetensors'))
    return str(home if home.exists() else empty)

  monkeypatch.setitem(sys.modules, 'huggingface_hub',
                      type('hub', (), {'snapshot_download': staticmethod(fetch)}))
  folder, name = convert.source_of('me/mine', '')
  assert folder == tmp_path / 'cache' and name.startswith('me/mine, from the hub')
  kinds = [[p for p in patterns if p.startswith('unet/')] for _, patterns in asked]
  assert len(asked) == 4 and 'bin' not in str(kinds[:3]) and kinds[3] == [
      'unet/*model.bin', 'unet/*model-*-of-*.bin']
  with refused(r"--from='me/gated': .* is gated: accept .* one of \['mvdream', 'sd15'", ERRORS):
    convert.source_of('me/gated', '')
  copies = hub.gate(GatedRepoError(), 'stable-diffusion-v1-5/stable-diffusion-v1-5@main')
  assert "its copies ['benjamin-paine/stable-diffusion-v1-5']" in copies
  assert convert.source_of('models/none.ckpt', '')[0] == pathlib.Path('models/none.ckpt')


@pytest.mark.slow
def test_a_killed_conversion_leaves_nothing_at_its_folder(model, tmp_path):
  """At each line that it prints: by SIGKILL the folder is not there, by SIGTERM no draft is
  either."""
  command = [sys.executable, '-m', 'jaxdreamer.convert', f'--from={model[0]}',
             f'--to={tmp_path / "to"}']
  for number, line in ((signal.SIGTERM, 'wrote unet'), (signal.SIGKILL, 'wrote vae')):
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
      for said in process.stdout:
        if said.startswith(line):
          process.send_signal(number)
          break
      status, errors = process.wait(60), process.stderr.read()
    assert not (tmp_path / 'to').exists()
    if number == signal.SIGTERM:
      assert (status, errors) == (130, 'jaxdreamer: interrupted\n') and not any(tmp_path.iterdir())
    else:
      assert status == -signal.SIGKILL


@pytest.mark.slow
def test_the_command_says_what_it_does_and_how_to_use_it(model, tmp_path):
  done = subprocess.run([sys.executable, '-m', 'jaxdreamer.convert', '--from', str(model[0]),
                         '--to', str(tmp_path / 'to')], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  *_, folder, _, command = done.stdout.splitlines()
  assert folder == f'{tmp_path / "to"}  license: unknown, look it up'
  assert f'--config.prior.path={tmp_path / "to"}' in command and 'dreamfusion_sd' in command


# what torch pickled

@pytest.fixture
def torch():
  return pytest.importorskip('torch')


def pickled(torch, table):
  return {key: torch.from_numpy(x.copy()) for key, x in table.items()}


@pytest.mark.slow
@pytest.mark.parametrize('zipped', [True, False])
def test_a_ckpt_becomes_the_folder_that_its_safetensors_would(torch, single, converted, tmp_path,
                                                              zipped):
  table = safetensors.numpy.load_file(single / 'mvdream.safetensors')
  held = {'state_dict': pickled(torch, table), 'epoch': 3, 'optimizer_states': [{'a': [1., None]}]}
  torch.save(held, tmp_path / 'x.ckpt', _use_new_zipfile_serialization=zipped)
  made(tmp_path / 'x.ckpt', tmp_path / 'to', **given(single))
  for file in (path for path in converted.rglob('*') if path.is_file()):
    mine = tmp_path / 'to' / file.relative_to(converted)
    assert mine.read_bytes() == file.read_bytes() or file.name == conversion.RECORD, file


@pytest.mark.slow
def test_a_folder_of_bin_files_becomes_one_of_safetensors(torch, model, tmp_path):
  """The UNet in two shards, the autoencoder in half precision with a mark in its name."""
  source = shutil.copytree(model[0], tmp_path / 'source')
  expected = tensors(model[0])
  expected['vae'] = {key: x.astype(np.float16) for key, x in expected['vae'].items()}
  for file in source.rglob('*.safetensors'):
    file.unlink()
  rows = pickled(torch, expected['unet'])
  for i in range(2):
    torch.save(dict([*rows.items()][i::2]),
               source / 'unet' / f'diffusion_pytorch_model-0000{i + 1}-of-00002.bin')
  torch.save(pickled(torch, expected['vae']), source / 'vae' / 'diffusion_pytorch_model.fp16.bin')
  text = {f'text_model.{key}': x for key, x in expected['text_encoder'].items()}
  torch.save(pickled(torch, text), source / 'text_encoder' / 'pytorch_model.bin')
  ours = tensors(made(source, tmp_path / 'to'))
  assert all(same(ours[name], expected[name]) for name in expected)
  (source / 'unet' / 'diffusion_pytorch_model-00002-of-00002.bin').unlink()
  with refused('unet holds 1 of 2 shards like diffusion_pytorch_model-00001-of-00002.bin', ERRORS):
    made(source, tmp_path / 'no')


class Runs:
  """Pickled, asks for the call of a function."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


@pytest.mark.slow
def test_a_pickle_that_would_run_code_is_refused_and_does_not(torch, single, tmp_path, monkeypatch):
  monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
  mark = tmp_path / 'ran'
  torch.save({'state_dict': {'a': torch.ones(2), 'b': Runs(os.system, f'touch {mark}')}},
             tmp_path / 'x.ckpt')
  torch.load(tmp_path / 'x.ckpt', weights_only=False)
  assert mark.exists()
  mark.unlink()
  with refused(r'x.ckpt: it holds more than weights, and is refused: .*posix.system'):
    made(tmp_path / 'x.ckpt', tmp_path / 'to', **given(single))
  assert not mark.exists() and [path.name for path in tmp_path.iterdir()] == ['x.ckpt']


@pytest.mark.slow
def test_what_a_training_framework_left_is_no_code_and_no_weight(torch, tmp_path, monkeypatch):
  module = type(sys)('pytorch_lightning')
  callback = type('Callback', (), {'__module__': 'pytorch_lightning'})
  module.Callback, callback.__qualname__ = callback, 'Callback'
  monkeypatch.setitem(sys.modules, 'pytorch_lightning', module)
  torch.save({'state_dict': {'a': torch.ones(2)}, 'callbacks': {callback: {'best': callback()}}},
             tmp_path / 'x.ckpt')
  out = pickles.unpickled([tmp_path / 'x.ckpt'], tmp_path / 'out.safetensors')
  assert same(safetensors.numpy.load_file(out), {'a': np.ones(2, np.float32)})


@pytest.mark.slow
def test_torch_has_a_time_and_ends_with_who_asked_it(torch, tmp_path, monkeypatch):
  torch.save({'a': torch.ones(2)}, tmp_path / 'x.bin')
  monkeypatch.setattr(pickles, 'SECONDS', .1)
  with refused('x.bin: torch was not done with it in 0 s'):
    pickles.unpickled([tmp_path / 'x.bin'], tmp_path / 'out.safetensors')
  os.mkfifo(tmp_path / 'never')          # nobody writes: it would wait for ever
  process = subprocess.Popen([sys.executable, '-P', torch_worker.SCRIPTS / 'unpickle.py',
                              tmp_path / 'out', tmp_path / 'never'], stdin=subprocess.PIPE)
  with pytest.raises(subprocess.TimeoutExpired):
    process.wait(4)
  process.stdin.close()
  assert process.wait(60) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_diffusers_opens_what_was_converted(torch, converted):
  diffusers = pytest.importorskip('diffusers')
  pipe = diffusers.StableDiffusionPipeline.from_pretrained(converted, local_files_only=True)
  parts = open_model(converted)
  for name, part in parts.items():
    if isinstance(part, Part):
      theirs = {key.removeprefix('text_model.'): x.numpy()
                for key, x in getattr(pipe, name).state_dict().items() if 'position_ids' not in key}
      assert same(theirs, tensors(converted)[name])
  assert isinstance(pipe.scheduler, diffusers.DDIMScheduler)
