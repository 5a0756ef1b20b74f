"""Folders that the installed diffusers and transformers save, random weights: text, forward process
and guided noise are theirs."""
import inspect
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxdreamer.diffusion import guided
from jaxdreamer.priors.latent import schedule_of
from jaxdreamer.priors.sdxl import sdxl
from jaxdreamer.priors.stable_diffusion import stable_diffusion
from jaxdreamer.types import Views
from jaxdreamer.weights import loras
from jaxdreamer.weights.diffusers_folder import open_model

QUICK = {'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False}
TOLERANCE = 1e-4                         # of the largest value; 2e-6 measured
PROMPT, NEGATIVE, SCALE = 'a red mug', 'murky', 7.5
pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def tower(cls, vocabulary, width, **options):
  from transformers import CLIPTextConfig
  end = vocabulary['<|endoftext|>']
  return cls(CLIPTextConfig(vocab_size=len(vocabulary), hidden_size=width, intermediate_size=64,
                            num_hidden_layers=2,
                            num_attention_heads=2, eos_token_id=end, bos_token_id=end - 1,
                            pad_token_id=end, **options))


@pytest.fixture(scope='module')
def pipelines():
  """{'sd', 'sdxl'} as diffusers makes them, and the text towers' and tokenizers' own classes."""
  for name in ('torch', 'diffusers', 'transformers'):
    pytest.importorskip(name)
  os.environ['HF_HUB_OFFLINE'] = '1'
  import diffusers
  import make_golden
  from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
  vocabulary = published.vocabulary()
  merges = [tuple(merge.split()) for merge in published.MERGES]
  tokenizer = lambda pad: CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad,
                                        model_max_length=77)
  told = lambda config: {k: v for k, v in config.items() if not k.startswith('_') and v is not None}
  net = lambda config: make_golden.filled(diffusers.UNet2DConditionModel(**told(config)))
  text = lambda *args, **options: make_golden.filled(tower(*args, **options))
  common = {'vae': make_golden.filled(diffusers.AutoencoderKL(**told(published.VAE))),
            'tokenizer': tokenizer('<|endoftext|>'),
            'text_encoder': text(CLIPTextModel, vocabulary, 32, hidden_act='quick_gelu'),
            'scheduler': diffusers.DDIMScheduler(**told(published.FORWARD))}
  two = {'tokenizer_2': tokenizer('!'),
         'text_encoder_2': text(CLIPTextModelWithProjection, vocabulary, 48, hidden_act='gelu',
                                projection_dim=24)}
  return {'sd': diffusers.StableDiffusionPipeline(unet=net(published.UNET), **common,
                                                  safety_checker=None, feature_extractor=None,
                                                  requires_safety_checker=False),
          'sdxl': diffusers.StableDiffusionXLPipeline(unet=net(published.SDXL), **common, **two)}


def theirs(pipe, z, steps, negative):
  """Their guided prediction [2, h, w, 4], at each of two steps."""
  import torch
  extra = {}
  text = pipe.encode_prompt(PROMPT, device='cpu', num_images_per_prompt=2,
                            do_classifier_free_guidance=True,
                            negative_prompt=negative)
  rows = text[:2]
  if len(text) == 4:
    sizes = torch.tensor([[16., 16., 0., 0., 16., 16.]] * 2)
    extra = [{'added_cond_kwargs': {'text_embeds': pooled, 'time_ids': sizes}}
             for pooled in text[2:]]
  at = lambda row, more: pipe.unet(torch.from_numpy(z.transpose(0, 3, 1, 2).copy()),
                                   torch.tensor(steps), row, **more).sample
  with torch.no_grad():
    y, null = (at(row, more) for row, more in zip(rows, extra or ({}, {})))
  return (null + SCALE * (y - null)).permute(0, 2, 3, 1).numpy()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['sd', 'sdxl'])
def test_a_saved_pipeline_gives_their_guided_noise(tmp_path, pipelines, name):
  pipe, steps = pipelines[name], np.array([200, 700])
  pipe.save_pretrained(tmp_path)
  assert not (tmp_path / 'tokenizer' / 'vocab.json').exists()
  prior = {'sd': stable_diffusion, 'sdxl': sdxl}[name](path=str(tmp_path), image_size=8,
                                                       dtype='float32')
  z = np.random.RandomState(0).standard_normal((2, 8, 8, 4)).astype(np.float32)
  two = lambda row: jnp.stack([row, row])
  eps = jax.jit(lambda views: guided(prior, z, jnp.asarray(steps) / 999., views, scale=SCALE),
                compiler_options=QUICK)
  for negative in (None, NEGATIVE):
    text = prior.embed(PROMPT, negative or '')
    ours = eps(Views(None, two(text.plain), two(text.plain), two(text.null), two(text.negative)))
    expected = theirs(pipe, z, steps, negative)
    assert np.abs(ours - expected).max() < TOLERANCE * np.abs(expected).max()


def samplers():
  """Every class that Stable Diffusion's pipelines accept and whose libraries are here."""
  diffusers = pytest.importorskip('diffusers')
  found = []
  for cls in {*diffusers.DDIMScheduler().compatibles, diffusers.DDIMScheduler,
              diffusers.LCMScheduler, diffusers.TCDScheduler}:
    try:
      cls()
      found.append(cls)
    except ImportError:
      pass
  return sorted(found, key=lambda cls: cls.__name__)


@pytest.mark.slow
@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction'])
def test_a_model_saved_with_any_sampler_has_that_samplers_forward_process(tmp_path, prediction):
  count = 0
  for cls in samplers():
    for zero in (False, True):
      sampler = cls.from_config(published.FORWARD | {'prediction_type': prediction,
                                                     'rescale_betas_zero_snr': zero})
      if not hasattr(sampler, 'alphas_cumprod'):
        continue                         # EDM's, of sigmas
      if zero and 'rescale_betas_zero_snr' not in inspect.signature(cls).parameters:
        continue  # it keeps the field for the next sampler, and does not act on it
      sampler.save_pretrained(tmp_path)
      # Python's JSON, -Infinity and all
      told = json.loads((tmp_path / 'scheduler_config.json').read_text())
      forward = schedule_of(told)
      alphas = np.asarray(forward.schedule.alpha(jnp.arange(1000) / 999.))
      np.testing.assert_allclose(alphas ** 2, sampler.alphas_cumprod.numpy(), rtol=1e-3 if zero
                                 else 2e-5, atol=1e-7,
                                 err_msg=cls.__name__)
      assert forward.predicted == prediction
      count += 1
  assert count > 20


@pytest.mark.parametrize('name', ['FlowMatchEulerDiscreteScheduler',
                                  'FlowMatchHeunDiscreteScheduler', 'EDMEulerScheduler',
                                  'EDMDPMSolverMultistepScheduler', 'KarrasVeScheduler',
                                  'ScoreSdeVeScheduler', 'IPNDMScheduler',
                                  'DDPMWuerstchenScheduler', 'CMStochasticIterativeScheduler',
                                  'CogVideoXDDIMScheduler',
                                  'SCMScheduler'])
def test_another_forward_process_is_refused(tmp_path, name):
  diffusers = pytest.importorskip('diffusers')
  getattr(diffusers, name)().save_pretrained(tmp_path)
  with pytest.raises(ValueError, match='forward process'):
    schedule_of(json.loads((tmp_path / 'scheduler_config.json').read_text()))


def test_layers_of_a_lora_are_those_that_their_converter_finds(tmp_path, pipelines):
  """kohya's names by the original code's blocks, through their converter to older diffusers' names,
  and through ours."""
  from diffusers.loaders import lora_conversion_utils as theirs
  pipelines['sdxl'].save_pretrained(tmp_path)
  part = open_model(tmp_path)['unet']
  import torch
  state, wanted = {}, {}
  for number, (key, shape) in enumerate(loras.matrices(part).items()):
    layer = key.removesuffix('.weight')
    if 'transformer_blocks' in layer and '.attn' in layer:
      stem = 'lora_unet_' + loras.original(layer, part.config).replace('.', '_')
      assert stem in loras.aliases('unet', layer, part.config)
      state |= {f'{stem}.lora_down.weight': torch.full((2, shape[1]), float(number)),
                f'{stem}.alpha': torch.tensor(2.),
                f'{stem}.lora_up.weight': torch.full((shape[0], 2), float(number))}
      wanted |= {(f'unet.{layer}', role): number for role in ('down', 'up')}
  mapped = theirs._maybe_map_sgm_blocks_to_diffusers(state, pipelines['sdxl'].unet.config)
  converted, _ = theirs._convert_non_diffusers_lora_to_diffusers(mapped)
  assert len(wanted) > 20 and {loras.parse(key): int(value.max())
                               for key, value in converted.items()} == wanted
