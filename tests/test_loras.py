"""LoRA files of both layouts beside a model: what is added to which weight, to the last bit of
float32, and what is refused."""
import json

import jax.numpy as jnp
import numpy as np
import published
import pytest
import safetensors.numpy
from refusals import refused

from configs import base
from jaxdreamer import build, registry
from jaxdreamer.weights import loras
from jaxdreamer.weights.diffusers_folder import load_part, open_model

OPTION = 'config.prior.lora'
# Layers of published.py's UNet and text encoder, by their kohya names: without prefix, shape of the
# weight.
LAYERS = {'unet': {'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q': (32, 32),
                   'mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0': (64, 64),
                   'up_blocks.1.attentions.1.proj_in': (32, 32, 1, 1),
                   'down_blocks.0.resnets.0.conv1': (32, 32, 3, 3)},
          'text_encoder': {'encoder.layers.1.self_attn.q_proj': (32, 32),
                           'encoder.layers.0.mlp.fc1': (64, 32)}}


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  home = tmp_path_factory.mktemp('model')
  published.write_model(home)
  return home


def drawn(shape, seed, rank=2):
  """down, up of a layer, and what they make."""
  noise = np.random.RandomState(seed)
  down = noise.standard_normal((rank, *shape[1:])).astype(np.float32)
  up = noise.standard_normal((shape[0], rank, *(1 for _ in shape[2:]))).astype(np.float32)
  return down, up, (up.reshape(shape[0], rank) @ down.reshape(rank, -1)).reshape(shape)


def kohya(name, layer):
  stem = {'unet': 'lora_unet_', 'text_encoder': 'lora_te_text_model_'}[name] + layer.replace(
      '.', '_')
  return f'{stem}.lora_down.weight', f'{stem}.lora_up.weight', f'{stem}.alpha'


def original(name, layer):
  """By the names of the original code's blocks, which kohya's trainer of XL writes."""
  blocks = {'down_blocks.0.attentions.0': 'input_blocks.1.1',
            'mid_block.attentions.0': 'middle_block.1',
            'up_blocks.1.attentions.1': 'output_blocks.3.1',
            'down_blocks.0.resnets.0.conv1': 'input_blocks.1.0.in_layers.2'}
  for new, old in blocks.items():
    layer = layer.replace(new, old)
  return kohya(name, layer)


def diffusers(name, layer, *, middle='', down='lora_A', up='lora_B'):
  stem = f'{name}.{"text_model." if name == "text_encoder" else ""}{layer}{middle}'
  return f'{stem}.{down}.weight', f'{stem}.{up}.weight', f'{stem}.alpha'


def processor(name, layer):
  """As old releases saved what attention processors hold."""
  for to in ('to_q', 'to_out.0'):
    if layer.endswith(f'.{to}'):
      stem = f'{name}.{layer.removesuffix(to)}processor.{to.removesuffix(".0")}_lora'
      return f'{stem}.down.weight', f'{stem}.up.weight', f'{stem}.alpha'
  return diffusers(name, layer, down='lora_linear_layer.down', up='lora_linear_layer.up')


LAYOUTS = {'kohya': kohya, 'original': original, 'diffusers': diffusers, 'processor': processor}


def written(path, names, *, alpha=1., metadata=None, extra=None):
  """A LoRA file; returns {part: {layer: what it adds at scale 1 and rank 2}}."""
  tensors, wanted = dict(extra or {}), {}
  for i, (part, layer, shape) in enumerate((p, n, s) for p, layers in LAYERS.items()
                                           for n, s in layers.items()):
    down, up, product = drawn(shape, i)
    keys = names(part, layer)
    tensors |= {keys[0]: down, keys[1]: up}
    if alpha is not None:
      tensors[keys[2]] = np.array(alpha, np.float32)
    wanted.setdefault(part, {})[layer] = product * (1. if alpha is None else alpha / 2.)
  safetensors.numpy.save_file(tensors, path, metadata)
  return wanted


def weights_of(parts, name, dtype=jnp.float32):
  """{layer: weight in torch's layout} of a part, as the priors load it."""
  found = loras.matrices(parts[name])
  like = {key: np.zeros(shape, np.float32) for key, shape in found.items()}
  rest = ((r'(?!' + '|'.join(key.replace('.', r'\.') + '$' for key in found) + r')^.*$', None),)
  loaded = load_part(parts[name]._replace(rename=(*parts[name].rename, *rest)), like,
                     dtype=dtype)
  return {key.removesuffix('.weight'): np.asarray(value) for key, value in loaded.items()}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_what_is_added_is_scale_alpha_over_rank_times_the_product(model, tmp_path, layout):
  wanted = written(tmp_path / 'x.safetensors', LAYOUTS[layout])
  before = open_model(model)
  parts = loras.added(before, tmp_path / 'x.safetensors', scale=.8, option=OPTION)
  for name, layers in wanted.items():
    old, new = weights_of(before, name), weights_of(parts, name)
    for layer, value in new.items():
      np.testing.assert_allclose(value, old[layer] + .8 * layers.get(layer, 0. * value), atol=1e-5,
                                 err_msg=layer)


def test_the_sum_is_taken_in_float32_before_it_is_rounded(model, tmp_path):
  """A change below half an ulp of bfloat16 counts where the weight lies near the middle between two
  of them."""
  written(tmp_path / 'x.safetensors', kohya, alpha=.004)
  before = open_model(model)
  parts = loras.added(before, tmp_path / 'x.safetensors', scale=1., option=OPTION)
  exact, rounded = weights_of(parts, 'unet'), weights_of(parts, 'unet', jnp.bfloat16)
  for layer in LAYERS['unet']:
    np.testing.assert_array_equal(rounded[layer], exact[layer].astype(jnp.bfloat16))


def test_without_alpha_the_rank_stands_for_it_and_pefts_settings_are_read(model, tmp_path):
  path, before = tmp_path / 'x.safetensors', open_model(model)
  layer = 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q'
  told = {'unet.r': 2, 'unet.lora_alpha': 8, 'unet.alpha_pattern': {'attn2.to_out.0': 1}}
  for settings, factor in (({}, 1.), (told, 4.), (told | {'unet.use_rslora': True}, 8. / 2 ** .5),
                           ({'lora_alpha': 6}, 3.)):
    wanted = written(path, diffusers, alpha=None,
                     metadata={'lora_adapter_metadata': json.dumps(settings)})
    change = loras.added(before, path, scale=1., option=OPTION)['unet'].changes
    np.testing.assert_allclose(change[f'{layer}.weight'].tensor(), factor * wanted['unet'][layer],
                               rtol=1e-4, atol=1e-5)
    if settings == told:
      other = 'mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0'
      np.testing.assert_allclose(change[f'{other}.weight'].tensor(), .5 * wanted['unet'][other],
                                 rtol=1e-4, atol=1e-5)


one = np.ones((2, 32), np.float32)
REFUSED = {
    'a layer that is not there': ({
        'lora_unet_down_blocks_9_attentions_0_proj_in.lora_down.weight': one}, {}, 'down_blocks_9'),
    'a layer of another encoder': (
        {'lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight': one}, {},
        'lora_te2_text_model'),
    'no LoRA': ({'lora_unet_mid_block_attentions_0_proj_in.dora_scale': one}, {},
                'not of a plain LoRA.*dora_scale'),
    'half of a pair': ({'lora_unet_mid_block_attentions_0_proj_in.lora_down.weight': one}, {},
                       r'other half \[.*mid_block_attentions_0'),
    'DoRA': ({}, {'lora_adapter_metadata': '{"unet.use_dora": true}'}, 'is a DoRA'),
    'broken settings': ({}, {'lora_adapter_metadata': '[1]'}, 'no JSON object')}


@pytest.mark.parametrize('kind', REFUSED)
def test_a_file_that_is_not_a_lora_of_this_model_alone_is_refused(model, tmp_path, kind):
  extra, metadata, said = REFUSED[kind]
  path = tmp_path / 'x.safetensors'
  written(path, diffusers, alpha=None, extra=extra, metadata=metadata)
  with refused(rf'{OPTION}=.*x.safetensors.*{said}'):
    loras.added(open_model(model), path, scale=1., option=OPTION)


def test_other_shapes_and_other_files_are_named(model, tmp_path):
  path, parts = tmp_path / 'x.safetensors', open_model(model)
  down, up, _ = kohya('unet', 'mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0')
  for tensors, said in (({down: one, up: np.ones((64, 2), np.float32)},
                         r'\(64, 2\) by \(2, 32\), for a weight of \(64, 64\)'),
                        ({down: np.ones((2, 64), np.float32),
                          up: np.full((64, 2), np.nan, np.float32)}, 'not finite'),
                        ({'double_blocks.0.x': one}, 'is a Flux'),
                        ({'lora_unet_x.lora_down.weight': one}, 'is of another model'),
                        ({'lora_unet_x.hada_w1_a': one}, 'LyCORIS')):
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match=said):
      loras.added(parts, path, scale=1., option=OPTION)
  (tmp_path / 'x.ckpt').write_bytes(b'\x80\x02}q\x00.')
  with pytest.raises(ValueError, match='pickles can run code'):
    loras.added(parts, tmp_path / 'x.ckpt', scale=1., option=OPTION)


def test_the_config_names_it_and_priors_without_files_refuse_it(model, tmp_path, monkeypatch):
  config = base.get_config()
  config.prior.lora = str(tmp_path / 'x.safetensors')
  with pytest.raises(ValueError, match="config.prior.lora=.*'toybox' takes none"):
    build.make_prior(config)
  config.prior.update({'name': 'stable_diffusion', 'path': str(model), 'lora_scale': .25})
  def asked(*, path, lora='', lora_scale=1., **options):
    raise LookupError(lora, lora_scale)
  monkeypatch.setitem(registry.PRIORS, 'stable_diffusion', asked)
  for lora in (config.prior.lora, ''):
    config.prior.lora = lora
    with pytest.raises(LookupError) as told:
      build.make_prior(config)
    assert told.value.args == (lora, .25)
