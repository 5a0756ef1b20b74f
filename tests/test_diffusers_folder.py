"""Model folders in diffusers' layout, and Stable Diffusion in one file, of random weights in tiny
networks.
Parity with diffusers' own converter: parity/test_single_file_parity.py."""
import functools
import hashlib
import json
import os
import shutil
import tempfile

import jax
import jax.numpy as jnp
import ldm_layout
import numpy as np
import pytest
import safetensors.numpy
from refusals import refused

from jaxdreamer.nn import clip, unet, unet_config, vae
from jaxdreamer.weights import safetensors_io
from jaxdreamer.weights.diffusers_folder import NAMES, load_part, open_model

DOWN, UP, CROSS_DOWN, CROSS_UP = ('DownBlock2D', 'UpBlock2D', 'CrossAttnDownBlock2D',
                                  'CrossAttnUpBlock2D')
DOWN_VAE, UP_VAE = 'DownEncoderBlock2D', 'UpDecoderBlock2D'
UNETS = {
    'sd1': dict(block_out_channels=[32, 64], layers_per_block=2,
                down_block_types=[CROSS_DOWN, DOWN], cross_attention_dim=24,
                up_block_types=[UP, CROSS_UP], attention_head_dim=8),
    'sd2': dict(block_out_channels=[32, 64, 64], layers_per_block=1,
                down_block_types=[CROSS_DOWN, CROSS_DOWN, DOWN],
                up_block_types=[UP, CROSS_UP, CROSS_UP], cross_attention_dim=128,
                attention_head_dim=[1, 1, 1],
                use_linear_projection=True),
    'sdxl': dict(block_out_channels=[32, 32, 64], layers_per_block=1,
                 down_block_types=[DOWN, CROSS_DOWN, CROSS_DOWN],
                 up_block_types=[CROSS_UP, CROSS_UP, UP], cross_attention_dim=40,
                 attention_head_dim=[1, 1, 1],
                 transformer_layers_per_block=[1, 2, 3], use_linear_projection=True)}
VAE = dict(block_out_channels=[32, 32, 64], layers_per_block=1, down_block_types=[DOWN_VAE] * 3,
           up_block_types=[UP_VAE] * 3)
CLIP_L = dict(vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
              num_attention_heads=1,
              max_position_embeddings=9, hidden_act='quick_gelu', eos_token_id=49,
              projection_dim=64)
OPEN_CLIP = dict(vocab_size=50, hidden_size=128, intermediate_size=160, num_hidden_layers=2,
                 num_attention_heads=2,
                 max_position_embeddings=9, hidden_act='gelu', eos_token_id=49, projection_dim=128)
PROJECTED = OPEN_CLIP | dict(projection_dim=72)


def drawn(like, seed):
  """A tree of numbers that half precision holds exactly."""
  rng = np.random.RandomState(seed)
  return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float16).astype(
      np.float32), like)


def shapes(network, *inputs):
  return jax.eval_shape(network.init, jax.random.key(0), *inputs)['params']


@functools.cache
def unet_tree(name):
  config = unet_config.from_diffusers(UNETS[name])
  like = shapes(unet.UNet2DCondition(config), jnp.zeros((1, 8, 8, 4)), jnp.zeros(1),
                jnp.zeros((1, 3, config.cross_attention_dim)))
  if name == 'sdxl':  # what our UNet lacks yet: sizes and pooled text beside the time
    dense = lambda i, o: {'kernel': jax.ShapeDtypeStruct((i, o), jnp.float32),
                          'bias': jax.ShapeDtypeStruct((o,), jnp.float32)}
    like = dict(like) | {'add_embedding': {'linear_1': dense(20, 128), 'linear_2': dense(128, 128)}}
  return drawn(like, 0)


@functools.cache
def vae_tree():
  return drawn(shapes(vae.AutoencoderKL(vae.config_from_diffusers(VAE)), jnp.zeros((1, 8, 8, 3))),
               1)


def clip_tree(values, *, network=clip.CLIPTextModel):
  return drawn(shapes(network(clip.CLIPTextConfig(**values)), jnp.zeros((1, 4), jnp.int32)), 2)


@pytest.fixture(scope='module')
def trees():
  """Parameters of Stable Diffusion 1's parts."""
  return {'unet': unet_tree('sd1'), 'vae': vae_tree(), 'text_encoder': clip_tree(CLIP_L)}


@pytest.fixture(scope='module')
def published(trees, tmp_path_factory):
  """{part: {published key: tensor}}."""
  path = tmp_path_factory.mktemp('published') / 'x.safetensors'
  out = {}
  for name, tree in trees.items():
    safetensors_io.save(path, tree)
    out[name] = safetensors.numpy.load_file(path)
  return out


def write_json(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


@pytest.fixture
def model(tmp_path, published):
  """A folder of Stable Diffusion 1, as diffusers writes it."""
  home = tmp_path / 'model'
  write_json(home / 'model_index.json', {
      '_class_name': 'StableDiffusionPipeline', '_diffusers_version': '0.42.1',
      'requires_safety_checker': False,
      'safety_checker': ['stable_diffusion', 'StableDiffusionSafetyChecker'],
      'feature_extractor': [None, None],
      'unet': ['diffusers', 'UNet2DConditionModel'], 'vae': ['diffusers', 'AutoencoderKL'],
      'text_encoder': ['transformers', 'CLIPTextModel'],
      'tokenizer': ['transformers', 'CLIPTokenizer'],
      'scheduler': ['diffusers', 'PNDMScheduler']})
  write_json(home / 'unet' / 'config.json', UNETS['sd1'] | {'_class_name': 'UNet2DConditionModel'})
  write_json(home / 'vae' / 'config.json', VAE | {'_class_name': 'AutoencoderKL'})
  write_json(home / 'text_encoder' / 'config.json', CLIP_L | {'architectures': ['CLIPTextModel'],
                                                              'model_type': 'clip_text_model'})
  write_json(home / 'scheduler' / 'scheduler_config.json', {'_class_name': 'PNDMScheduler',
                                                            'prediction_type': 'epsilon'})
  write_json(home / 'tokenizer' / 'vocab.json', {'a': 0})
  for name, tensors in published.items():
    safetensors.numpy.save_file(tensors, home / name / file_of(name))
  return home


def file_of(name):
  return 'model.safetensors' if name == 'text_encoder' else 'diffusion_pytorch_model.safetensors'


def assert_same(ours, tree):
  assert jax.tree.structure(ours) == jax.tree.structure(tree)
  for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(tree)):
    np.testing.assert_array_equal(a, b, str(path))


def load(parts, name, tree):
  return load_part(parts[name], jax.eval_shape(lambda: tree), dtype=jnp.float32)


@pytest.mark.slow
def test_a_folder_gives_every_part_with_its_config(model, trees):
  parts = open_model(str(model))
  assert parts.keys() == {'unet', 'vae', 'text_encoder', 'scheduler', 'tokenizer'}
  for name, tree in trees.items():
    assert_same(load(parts, name, tree), tree)
  assert unet_config.from_diffusers(parts['unet'].config) == unet_config.from_diffusers(
      UNETS['sd1'])
  assert vae.config_from_diffusers(parts['vae'].config) == vae.config_from_diffusers(VAE)
  assert clip.config_from_transformers(parts['text_encoder'].config) == clip.CLIPTextConfig(
      **CLIP_L)
  assert parts['scheduler'] == {'_class_name': 'PNDMScheduler', 'prediction_type': 'epsilon'}
  assert parts['tokenizer'] == model / 'tokenizer'


def test_load_part_gives_the_dtype_asked_for(model, trees):
  params = load_part(open_model(model)['vae'], trees['vae'], dtype=jnp.bfloat16)
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(trees['vae'])):
    np.testing.assert_array_equal(a, jnp.asarray(b).astype(jnp.bfloat16))


def test_the_plain_file_is_read_before_the_half_precision_one_and_that_before_shards(
    model, trees, published):
  home = model / 'vae'
  plain, half, index = (home / name.format('diffusion_pytorch_model') for name in NAMES[:3])
  safetensors.numpy.save_file({k: 2 * v for k, v in published['vae'].items()}, half)
  shards(home, {k: 4 * v for k, v in published['vae'].items()})
  for file, factor in ((plain, 1), (half, 2), (index, 4)):
    part = open_model(model)['vae']
    assert part.file == file
    assert_same(load({'vae': part}, 'vae', trees['vae']),
                jax.tree.map(lambda x: factor * x, trees['vae']))
    file.unlink()


@pytest.mark.parametrize('variant', ['bf16', 'non_ema', 'fp32'])
@pytest.mark.parametrize('sharded', [False, True])
def test_any_one_variant_is_read_and_several_are_listed(model, trees, published, variant, sharded):
  home = model / 'vae'
  plain = home / file_of('vae')
  if sharded:
    plain.unlink()
    shards(home, published['vae'])
    plain = home / 'diffusion_pytorch_model.safetensors.index.json'
    plain.rename(home / f'diffusion_pytorch_model.safetensors.index.{variant}.json')
  else:
    plain.rename(home / f'diffusion_pytorch_model.{variant}.safetensors')
  (home / 'notes.txt').touch()
  assert_same(load(open_model(model), 'vae', trees['vae']), trees['vae'])
  safetensors.numpy.save_file(published['vae'], home / 'diffusion_pytorch_model.ema.safetensors')
  with pytest.raises(ValueError, match=rf'several variants (?=.*ema)(?=.*{variant})'):
    open_model(model)
  safetensors.numpy.save_file(published['vae'], home / 'diffusion_pytorch_model.fp16.safetensors')
  assert open_model(model)['vae'].file.name == 'diffusion_pytorch_model.fp16.safetensors'


def test_a_shard_that_is_not_there_is_named_at_once(model, published):
  (model / 'vae' / file_of('vae')).unlink()
  names = shards(model / 'vae', published['vae'])
  (model / 'vae' / names[2]).unlink()
  with pytest.raises(FileNotFoundError, match=names[2]):
    open_model(model)


def test_configs_may_hold_what_python_writes_and_json_lacks(model):
  path = model / 'scheduler' / 'scheduler_config.json'
  path.write_bytes(b'\xef\xbb\xbf' + json.dumps({'lambda_min_clipped': -np.inf, 'a': np.inf,
                                                 'b': [np.nan]}).encode())
  told = open_model(model)['scheduler']
  assert told['lambda_min_clipped'] == -np.inf and told['a'] == np.inf and np.isnan(told['b'][0])


LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3438167540\n'
PAGE = b'\n<!DOCTYPE html>\n<html><head><title>Access  denied</title></head></html>'
NO_MODELS = {                            # what a file holds: what is said of it
    'pointer': (LFS, 'git-lfs pointer.* 3,438,167,540 bytes.*git lfs pull'),
             'page': (PAGE, "a web page .'Access denied'.*log in"),
    'empty': (b'', 'is empty: download'), 'gguf': (b'GGUF\3\0\0\0' + bytes(99),
                                                   'a GGUF file.*give the .safetensors'),
    'refusal': (b'Entry not found\n', "begins with the text 'Entry not found'"),
    'pickle': (b'\x80\x02}q\x00.' + bytes(9), 'a pickle.*Convert')}


@pytest.mark.parametrize('kind', NO_MODELS)
def test_what_is_no_weights_file_is_named_alone_and_in_a_folder(model, tmp_path, kind):
  content, said = NO_MODELS[kind]
  (tmp_path / 'x.safetensors').write_bytes(content)
  with refused(rf'x.safetensors .*{said}'):
    open_model(tmp_path / 'x.safetensors')
  if kind in ('pointer', 'page', 'empty', 'refusal'):
    (model / 'vae' / 'config.json').write_bytes(content)
    with pytest.raises(ValueError, match=rf'config.json .*{said}'):
      open_model(model)


@pytest.mark.parametrize('length', [640, 896, 0x4b50, 0x8b1f])
def test_a_header_whose_length_looks_like_another_files_mark_is_read(tmp_path, length):
  text = json.dumps({'__metadata__': {'a': ''}, 'x': {'dtype': 'F32', 'shape': [1],
                                                      'data_offsets': [0, 4]}}).encode()
  (tmp_path / 'x.safetensors').write_bytes(length.to_bytes(8, 'little') + text.ljust(length)
                                           + bytes(4))
  assert safetensors_io.load(tmp_path / 'x.safetensors', {'x': np.zeros(1, np.float32)})['x'] == 0.


one = np.ones(1, np.float32)
FOREIGN = {                              # keys of a file: what is said of it
    'LoRA': (['lora_unet_mid_block_attentions_0_proj_in.lora_down.weight'],
             'is a LoRA.*config.prior.lora'),
    'LoRA of diffusers': (['unet.mid_block.attentions.0.proj_in.lora_A.weight'],
                          'is a LoRA.*config.prior.lora'),
    'LoHa': (['lora_unet_mid_block_attentions_0_proj_in.hada_w1_a'], 'LyCORIS'),
    'refiner': (['conditioner.embedders.0.model.ln_final.weight',
                 'model.diffusion_model.out.2.weight',
                 'first_stage_model.encoder.conv_in.weight'], "XL's refiner.*base model"),
    'bare UNet': (['model.diffusion_model.input_blocks.0.0.weight'], 'bare UNet.*whole model'),
    'bare UNet of diffusers': ([
      'down_blocks.0.attentions.0.norm.weight', 'time_embedding.linear_1.weight'],
                               'bare UNet.*whole model'),
    'VAE': (['decoder.conv_in.weight', 'encoder.conv_in.weight'],
            'the autoencoder of a model alone'),
    'text encoder': (['text_model.encoder.layers.0.mlp.fc1.weight'],
                     'the text encoder of a model alone'),
    'ControlNet': (['control_model.input_hint_block.0.weight'], 'a ControlNet'),
    'Flux': (['double_blocks.0.img_attn.x'], 'is a Flux'),
    'embedding': (['emb_params'], 'textual inversion')}


@pytest.mark.parametrize('kind', FOREIGN)
def test_a_file_that_is_no_whole_model_is_told_what_it_is(tmp_path, kind):
  keys, said = FOREIGN[kind]
  safetensors.numpy.save_file(dict.fromkeys(keys, one), tmp_path / 'x.safetensors')
  with pytest.raises(ValueError, match=rf'x.safetensors .*{said}'):
    open_model(tmp_path / 'x.safetensors')


def test_a_model_in_8_bit_floats_is_told_so(tmp_path):
  text = json.dumps({'x': {'dtype': 'F8_E4M3', 'shape': [4], 'data_offsets': [0, 4]}}).encode()
  (tmp_path / 'x.safetensors').write_bytes(len(text).to_bytes(8, 'little') + text + bytes(4))
  with pytest.raises(ValueError, match='fp8 .*take the same model in fp16'):
    open_model(tmp_path / 'x.safetensors')


def test_a_folder_that_is_no_whole_model_is_told_what_it_is(model, tmp_path):
  with pytest.raises(ValueError, match='unet is of UNet2DConditionModel alone .*model is one'):
    open_model(model / 'unet')
  (tmp_path / 'lora').mkdir()
  (tmp_path / 'lora' / 'pytorch_lora_weights.safetensors').touch()
  with pytest.raises(ValueError, match='lora is the folder of a LoRA: .*config.prior.lora'):
    open_model(tmp_path / 'lora')
  (tmp_path / 'one').mkdir()
  (tmp_path / 'one' / 'sd.safetensors').touch()
  with pytest.raises(ValueError, match=r"but \['sd.safetensors'\]: give such a file"):
    open_model(tmp_path / 'one')
  refiner = {'_class_name': 'StableDiffusionXLImg2ImgPipeline', 'requires_aesthetics_score': True,
             'text_encoder': [None, None]}
  edit(model / 'model_index.json', lambda v: v.update(refiner))
  with pytest.raises(ValueError, match="XL's refiner"):
    open_model(model)
  edit(model / 'model_index.json', lambda v: v.update(_class_name='FluxPipeline',
                                                      requires_aesthetics_score=None))
  with pytest.raises(ValueError, match='is a FluxPipeline'):
    open_model(model)


def shards(home, tensors, n=3, stem='diffusion_pytorch_model'):
  """Write tensors as n shards and their index."""
  names = [f'{stem}-{i:05d}-of-{n:05d}.safetensors' for i in range(1, n + 1)]
  table = {key: names[i % n] for i, key in enumerate(tensors)}
  for name in names:
    safetensors.numpy.save_file({k: v for k, v in tensors.items() if table[k] == name}, home / name)
  write_json(home / f'{stem}.safetensors.index.json', {'metadata': {'total_size': 1},
                                                       'weight_map': table})
  return names


def test_old_names_of_the_vaes_attention_and_of_the_text_encoder_are_read(model, trees, published):
  old = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
  tensors = dict(published['vae'])
  for key in published['vae']:
    for new, name in old.items():
      if f'attentions.0.{new}.' in key:
        tensors[key.replace(new, name)] = tensors.pop(key)
  assert sum('proj_attn' in key for key in tensors) == 4
  safetensors.numpy.save_file(tensors, model / 'vae' / file_of('vae'))
  text = {f'text_model.{k}': v for k, v in published['text_encoder'].items()}
  text['text_model.embeddings.position_ids'] = np.arange(9)[None]
  safetensors.numpy.save_file(text, model / 'text_encoder' / file_of('text_encoder'))
  parts = open_model(model)
  for name in ('vae', 'text_encoder'):
    assert_same(load(parts, name, trees[name]), trees[name])


def edit(path, change):
  value = json.loads(path.read_text())
  change(value)
  path.write_text(json.dumps(value))


FAULTS = {
    'no index': (lambda m: (m / 'model_index.json').unlink(), FileNotFoundError,
                 r'model_index.json: download'),
    'no part': (lambda m: shutil.rmtree(m / 'vae'), FileNotFoundError,
                r'no folder .*vae, .* download'),
    'no config': (lambda m: (m / 'unet' / 'config.json').unlink(), FileNotFoundError,
                  r'unet/config.json: download'),
    'no scheduler': (lambda m: shutil.rmtree(m / 'scheduler'), FileNotFoundError,
                     r'scheduler_config.json: download'),
    'no tokenizer': (lambda m: shutil.rmtree(m / 'tokenizer'), FileNotFoundError,
                     r'no folder .*tokenizer'),
    'no weights': (lambda m: (m / 'vae' / file_of('vae')).unlink(), FileNotFoundError,
                   r'no weights in .*vae: download one of '
                   r'.*diffusion_pytorch_model.fp16.safetensors'),
    'a pickle alone': (lambda m: (m / 'vae' / file_of('vae')).rename(
        m / 'vae' / 'diffusion_pytorch_model.bin'), ValueError,
                       r'vae/diffusion_pytorch_model.bin .*Convert one you trust by: python -c'),
    'a part not listed': (lambda m: edit(m / 'model_index.json', lambda v: v.pop('unet')),
                          ValueError,
                          r"model_index.json lists no \['unet'\]"),
    'an unknown class': (lambda m: edit(m / 'model_index.json',
                                        lambda v: v.update(vae=['diffusers', 'VQModel'])),
                         ValueError,
                         r"model_index.json: the part 'vae' is \['diffusers', 'VQModel'\]; known "
                         r"are \['AutoencoderKL'\]"),
    'an unknown part': (lambda m: edit(m / 'model_index.json',
                                       lambda v: v.update(prior=['diffusers', 'Prior'])),
                        ValueError,
                        r"the part 'prior' is .* no classes"),
    'a part outside': (lambda m: edit(m / 'model_index.json',
                                      lambda v: v.update({'../x': ['diffusers', 'AutoencoderKL']})),
                       ValueError, r"the part '../x'"),
    'an entry of another form': (lambda m: edit(m / 'model_index.json',
                                                lambda v: v.update(vae=[['a'], {}, 3])), ValueError,
                                 r"the part 'vae'"),
    'another class in the config': (lambda m: edit(m / 'vae' / 'config.json',
                                                   lambda v: v.update(_class_name='VQModel')),
                                    ValueError, r'vae/config.json is of VQModel, model_index.json '
                                    r'says AutoencoderKL'),
    'a config of another form': (lambda m: edit(m / 'text_encoder' / 'config.json',
                                                lambda v: v.update(architectures={'a': 1})),
                                 ValueError, r'text_encoder/config.json is of'),
    'a list for a config': (lambda m: (m / 'vae' / 'config.json').write_text('[]'), ValueError,
                            r'holds no JSON object'),
    'a deep config': (lambda m: (m / 'vae' / 'config.json').write_text('{"a":' * 100_000),
                      ValueError, r'nested too deep'),
    'a long config': (lambda m: (m / 'vae' / 'config.json').write_text(' ' * 5_000_000 + '{}'),
                      ValueError, r'larger than'),
    'a pipe': (lambda m: ((m / 'vae' / 'config.json').unlink(),
                          os.mkfifo(m / 'vae' / 'config.json')), ValueError,
               r'config.json is a folder or a device'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_broken_folder_ends_in_one_line_that_names_file_and_remedy(model, fault):
  break_it, error, match = FAULTS[fault]
  break_it(model)
  with refused(match, error):
    open_model(model)


@pytest.mark.parametrize('name', ['vae/diffusion_pytorch_model.safetensors', 'vae/config.json',
                                  'vae', 'tokenizer'])
def test_links_that_the_folder_holds_are_followed_wherever_they_lead(model, trees, name):
  for target in (model / 'elsewhere', model.parent / 'outside'):
    (model / name).rename(target)
    (model / name).symlink_to(target)
    assert_same(load(open_model(model), 'vae', trees['vae']), trees['vae'])
    (model / name).unlink()
    target.rename(model / name)
  if name != 'tokenizer':
    shutil.move(model / name, model.parent / 'gone')
    (model / name).symlink_to(model.parent / 'nowhere')
    with pytest.raises(FileNotFoundError, match='nowhere|no folder'):
      open_model(model)


def test_links_of_a_hugging_face_cache_are_followed_and_names_in_files_are_not(
    model, trees, tmp_path, published):
  repo = tmp_path / 'models--a--b'
  (repo / 'blobs').mkdir(parents=True)
  (repo / 'snapshots').mkdir()
  names = shards(model / 'vae', published['vae'])
  (model / 'vae' / file_of('vae')).unlink()
  model = model.rename(repo / 'snapshots' / '0123')
  for i, file in enumerate(sorted(p for p in model.rglob('*') if p.is_file())):
    file.rename(repo / 'blobs' / str(i))
    file.symlink_to(os.path.relpath(repo / 'blobs' / str(i), file.parent))
  for name, tree in trees.items():
    assert_same(load(open_model(model), name, tree), tree)
  shard = model / 'vae' / names[1]
  shutil.copy(shard, tmp_path / 'outside.safetensors')
  shard.unlink()
  shard.symlink_to(tmp_path / 'outside.safetensors')
  assert_same(load(open_model(model), 'vae', trees['vae']), trees['vae'])
  index = model / 'vae' / 'diffusion_pytorch_model.safetensors.index.json'
  for name in ('../../outside.safetensors', str(tmp_path / 'outside.safetensors')):
    edit(index, lambda v, name=name: v['weight_map'].update(dict.fromkeys(v['weight_map'], name)))
    with pytest.raises(ValueError, match='which is no .safetensors file beside it'):
      open_model(model)


def test_hashes_of_a_folder_are_checked_when_given(model):
  hashes = {f'{name}/{file_of(name)}': hashlib.sha256(
      (model / name / file_of(name)).read_bytes()).hexdigest()
            for name in ('unet', 'vae', 'text_encoder')}
  open_model(model, sha256=hashes)
  with pytest.raises(ValueError, match=r"sha256 says nothing of \['vae/diffusion"):
    open_model(model, sha256={k: v for k, v in hashes.items() if 'vae' not in k})
  with pytest.raises(ValueError, match='one sha256 cannot vouch for a folder'):
    open_model(model, sha256=hashes['vae/diffusion_pytorch_model.safetensors'])
  with (model / 'vae' / file_of('vae')).open('r+b') as file:
    file.seek(-1, os.SEEK_END)
    last = file.read(1)
    file.seek(-1, os.SEEK_END)
    file.write(bytes([last[0] ^ 1]))
  with pytest.raises(ValueError, match='vae/diffusion_pytorch_model.safetensors has sha256 .* '
                     'damaged'):
    open_model(model, sha256=hashes)


def prefixed(prefix, tensors):
  return {prefix + key: value for key, value in tensors.items()}


@functools.cache
def in_one(name):
  """The tensors of a family's single file, and the trees they were made of."""
  def keys(tree):
    with tempfile.TemporaryDirectory() as home:
      safetensors_io.save(f'{home}/x.safetensors', tree)
      return safetensors.numpy.load_file(f'{home}/x.safetensors')

  trees = {'unet': unet_tree(name), 'vae': vae_tree()}
  tensors = prefixed('model.diffusion_model.', ldm_layout.unet(keys(trees['unet']), UNETS[name]))
  tensors |= prefixed('first_stage_model.', ldm_layout.vae(keys(trees['vae']), VAE))
  if name == 'sd1':
    trees['text_encoder'] = clip_tree(CLIP_L)
    tensors |= prefixed('cond_stage_model.transformer.text_model.', keys(trees['text_encoder']))
    tensors |= {'cond_stage_model.transformer.text_model.embeddings.position_ids': np.arange(9)[
        None],
                'betas': np.ones(5, np.float32), 'alphas_cumprod_prev': np.ones(5, np.float32),
                'model_ema.diffusion_modelinput_blocks00weight': np.ones(3, np.float32),
                'model_ema.decay': np.ones((), np.float32)}
  if name == 'sd2':                      # the file has a last layer that the UNet never saw
    whole = clip_tree(OPEN_CLIP | {'num_hidden_layers': 3})
    trees['text_encoder'] = whole | {'encoder': {k: v for k, v in whole['encoder'].items()
                                                 if k != 'layers_2'}}
    text = ldm_layout.open_clip(keys(whole)) | {'text_projection': np.ones((128, 128), np.float32),
                                                'logit_scale': np.ones((), np.float32)}
    tensors |= prefixed('cond_stage_model.model.', text)
  if name == 'sdxl':
    trees['text_encoder'] = clip_tree(CLIP_L)
    trees['text_encoder_2'] = clip_tree(PROJECTED, network=clip.CLIPTextModelWithProjection)
    tensors |= prefixed('conditioner.embedders.0.transformer.text_model.',
                        keys(trees['text_encoder']))
    text = {k.removeprefix('text_model.'): v for k, v in keys(trees['text_encoder_2']).items()}
    tensors |= prefixed('conditioner.embedders.1.model.', ldm_layout.open_clip(text)
                        | {'logit_scale': np.ones((), np.float32)})
    tensors['denoiser.sigmas'] = np.ones(5, np.float32)
  return tensors, trees


def single(tmp_path, name, edited=lambda tensors: tensors):
  """A single-file checkpoint of a family, and the trees it was made of."""
  tensors, trees = in_one(name)
  safetensors.numpy.save_file(edited(dict(tensors)), tmp_path / f'{name}.safetensors')
  return tmp_path / f'{name}.safetensors', trees


@pytest.mark.slow
@pytest.mark.parametrize('name', UNETS)
def test_a_single_file_is_its_parts_values_and_configs(tmp_path, name):
  path, trees = single(tmp_path, name)
  parts = open_model(path)
  assert parts.keys() == trees.keys() | {'scheduler'}
  for part, tree in trees.items():
    assert_same(load(parts, part, tree), tree)
  found = parts['unet'].config
  assert found.items() >= UNETS[name].items() and found['in_channels'] == found['out_channels'] == 4
  assert vae.config_from_diffusers(parts['vae'].config) == vae.config_from_diffusers(
      VAE | {'scaling_factor': .13025 if name == 'sdxl' else .18215})
  texts = {'sd1': (CLIP_L,), 'sd2': (OPEN_CLIP,), 'sdxl': (CLIP_L, PROJECTED)}[name]
  for part, values in zip(('text_encoder', 'text_encoder_2'), texts):
    assert clip.config_from_transformers(parts[part].config) == clip.CLIPTextConfig(**values)
  assert parts['scheduler']['prediction_type'] == (None if name == 'sd2' else 'epsilon')
  if name == 'sdxl':
    assert (found['addition_embed_type'], found['projection_class_embeddings_input_dim']) == (
        'text_time', 20)
  else:
    assert unet_config.from_diffusers(found) == unet_config.from_diffusers(UNETS[name])


ENCODERS = {'sd1': ['cond_stage_model.transformer'], 'sd2': ['cond_stage_model.model'],
            'sdxl': ['conditioner.embedders.0.transformer', 'conditioner.embedders.1.model']}
LEFT = ('text_model.embeddings.position_ids', 'embeddings.position_ids',
        'transformer.text_model.embeddings.position_ids',
        'logit_scale', 'embedding_manager.string_to_param_dict.x',
        'embedding_manager.embedder.transformer.text_model.embeddings.position_ids',
        'vision_model.post_layernorm.weight', 'visual_projection.weight', 'attn_mask')


@pytest.mark.parametrize('name', UNETS)
def test_what_trainings_leave_under_the_text_encoders_is_dropped_and_other_weights_are_not(
    tmp_path, name):
  left = {f'{prefix}.{key}': one for encoder in ENCODERS[name]
          for prefix in (encoder, encoder.rpartition('.')[0]) for key in LEFT}
  left |= {'embedding_manager.embedder.transformer.text_model.embeddings.position_ids': np.arange(
      9)[None]}
  left |= {f'{ENCODERS[name][0]}.text_projection.weight': one,
           f'{ENCODERS[name][0].rpartition(".")[0]}.text_projection': one}
  path, trees = single(tmp_path, name, lambda t: t | left)
  parts = open_model(path)
  for part in ('text_encoder', 'text_encoder_2')[:len(ENCODERS[name])]:
    assert_same(load(parts, part, trees[part]), trees[part])
  for more in [f'{ENCODERS[name][-1]}.adapter.weight',
               f'{ENCODERS[name][-1].rpartition(".")[0]}.other.weight', 'other.weight']:
    path, _ = single(tmp_path, name, lambda t, more=more: t | {more: one})
    with pytest.raises(ValueError, match=r'(unused|no known part).*(adapter|other).weight'):
      parts = open_model(path)
      for part in ('text_encoder', 'text_encoder_2')[:len(ENCODERS[name])]:
        load(parts, part, trees[part])


def test_what_trainings_leave_in_the_text_encoder_of_a_folder_is_dropped(model, trees, published):
  left = {'text_model.embeddings.position_ids': np.arange(9)[None], 'logit_scale': one,
          'text_projection.weight': one,
          'embedding_manager.string_to_param_dict.x': one,
          'vision_model.post_layernorm.weight': one}
  safetensors.numpy.save_file(published['text_encoder'] | left,
                              model / 'text_encoder' / file_of('text_encoder'))
  assert_same(load(open_model(model), 'text_encoder', trees['text_encoder']),
              trees['text_encoder'])


@pytest.mark.parametrize('markers, metadata, predicted, pure', [
    ((), {}, 'epsilon', None), (('v_pred',), {}, 'v_prediction', None),
    (('v_pred', 'ztsnr'), {}, 'v_prediction', True),
    (('ztsnr',), {}, 'epsilon', True), ((), {'modelspec.prediction_type': 'v'},
                                        'v_prediction', None),
    ((), {'modelspec.prediction_type': 'V-Prediction'}, 'v_prediction', None),
    ((), {'modelspec.prediction_type': 'epsilon'}, 'epsilon', None),
    (('v_pred',), {'modelspec.prediction_type': 'v'}, 'v_prediction', None),
    (('v_pred',), {'modelspec.prediction_type': 'epsilon'}, None, None),
    ((), {'modelspec.prediction_type': 'flow'}, 'flow', None)])
def test_a_single_files_signs_say_what_its_unet_predicts(tmp_path, markers, metadata,
                                                         predicted, pure):
  tensors, _ = in_one('sdxl')
  path = tmp_path / 'x.safetensors'
  safetensors.numpy.save_file(tensors | dict.fromkeys(markers, np.ones(0, np.float32)),
                              path, metadata)
  told = open_model(path)['scheduler']
  assert (told['prediction_type'], told.get('rescale_betas_zero_snr')) == (predicted, pure)


@pytest.mark.parametrize('change, match', [
    (lambda t: t | {'lora_te.x': np.ones(1, np.float32)},
     r"tensors of no known part: \['lora_te.x'\]"),
    (lambda t: {k: v for k, v in t.items() if not k.startswith('cond_stage_model')},
     r'the UNet and the autoencoder of'),
    (lambda t: {k: v for k, v in t.items() if not k.startswith('first_stage')},
     r"'first_stage_model.encoder.conv_in.weight' is m"),
    (lambda t: t | {'model.diffusion_model.out.2.weight': np.ones(3, np.float32)},
     r"diffusion_model.out.2.weight' is \(3,\)"),
    (lambda t: {'a': np.ones(1, np.float32)}, 'no known Stable Diffusion')])
def test_a_single_file_of_another_layout_is_refused(tmp_path, change, match):
  path, _ = single(tmp_path, 'sd1', change)
  with refused(match) as caught:
    open_model(path)
  assert 'sd1.safetensors' in str(caught.value)


def test_a_tensor_missing_from_a_single_file_is_named(tmp_path):
  lost = 'model.diffusion_model.output_blocks.2.0.in_layers.2.weight'
  path, trees = single(tmp_path, 'sd1', lambda t: {k: v for k, v in t.items() if k != lost})
  with pytest.raises(ValueError, match=r"missing \['up_blocks.0.resnets.2.conv1.weight'\], "
                     r"unused \[\]"):
    load(open_model(path), 'unet', trees['unet'])


def test_a_single_files_hash_is_checked(tmp_path):
  path, _ = single(tmp_path, 'sd1')
  right = hashlib.sha256(path.read_bytes()).hexdigest()
  open_model(path, sha256=right.upper())
  with pytest.raises(ValueError, match='sd1.safetensors has sha256'):
    open_model(path, sha256='0' * 64)


@pytest.mark.parametrize('name, error, match', [
    ('model.ckpt', ValueError, 'Convert one you trust by: python -c'),
    ('absent', FileNotFoundError, 'no file at .*absent'),
    ('x.safetensors.index.json', ValueError, 'is an index: give the folder')])
def test_what_is_no_model_is_named_with_the_remedy(tmp_path, name, error, match):
  if name != 'absent':
    (tmp_path / name).write_bytes(b'\x80\x02}q\x00.')
  with pytest.raises(error, match=match):
    open_model(tmp_path / name)
