"""toybox-sd in diffusers' own pipeline: the folder that the training writes gives there the picture
that it gives here, and a LoRA that VSD learnt predicts there as here: of weights that are drawn,
and of the shipped ones."""
import os

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxdreamer.estimators.vsd import vsd
from jaxdreamer.nn import lora
from jaxdreamer.priors.stable_diffusion import stable_diffusion
from jaxdreamer.toybox import sd, sd_inspection
from jaxdreamer.weights import lora_files

KEY = jax.random.key(0)
PROMPT, STEPS, SCALE = 'a striped red cone on a blue cylinder, side view', 20, 3.
PICTURE = 2e-3                           # of the range of pixels
PREDICTION = 1e-4                        # of the largest value
pytestmark = [pytest.mark.filterwarnings('ignore'), pytest.mark.slow]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def drawn(init, seed=0):
  """Weights like `init`'s, of a seed."""
  return jax.tree.map(jnp.asarray, published.filled(jax.eval_shape(init, KEY), seed))


@pytest.fixture(scope='module', params=['epsilon', 'v_prediction', 'shipped'])
def saved(request, tmp_path_factory):
  """(folder, their pipeline of it)."""
  for name in ('torch', 'diffusers', 'transformers', 'peft'):
    pytest.importorskip(name)
  os.environ['HF_HUB_OFFLINE'] = '1'
  from diffusers import StableDiffusionPipeline
  folder = sd.SHIPPED
  if request.param != 'shipped':
    folder = tmp_path_factory.mktemp('sd')
    sd.save_autoencoder(folder, drawn(sd.init_autoencoder, 1), scale=.7, dtype=jnp.float32)
    sd.save(folder, drawn(sd.init, 0), prediction=request.param, dtype=jnp.float32)
  pipe = StableDiffusionPipeline.from_pretrained(folder)
  pipe.set_progress_bar_config(disable=True)
  return folder, pipe


def theirs(pipe, z):
  """Their picture [H, W, 3] from this noise."""
  import torch
  latents = torch.from_numpy(np.asarray(z).transpose(0, 3, 1, 2).copy())
  return pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=SCALE, latents=latents,
              output_type='np').images[0]


def test_the_picture_of_a_seed_is_theirs(saved):
  folder, pipe = saved
  z = jax.random.normal(KEY, (1, *stable_diffusion(path=str(folder)).latent))
  prior = stable_diffusion(path=str(folder), dtype='float32')
  ours = sd_inspection.picture(prior, z, PROMPT, scale=SCALE, steps=STEPS)
  assert np.abs(ours[0] - theirs(pipe, z)).max() < PICTURE
  assert np.std(ours) > .02                       # it is a picture, not one color


def test_a_folder_goes_there_and_back(saved, tmp_path):
  folder, pipe = saved
  pipe.save_pretrained(tmp_path)
  one, two = (stable_diffusion(path=str(place), dtype='float32') for place in (folder, tmp_path))
  jax.tree.map(np.testing.assert_array_equal, one.weights, two.weights)
  texts = [prior.embed('a purple house', 'a red car') for prior in (one, two)]
  jax.tree.map(np.testing.assert_array_equal, *texts)
  assert one.predicted == two.predicted


def test_a_lora_that_vsd_learnt_predicts_there_as_here(saved, tmp_path):
  import torch
  folder, pipe = saved
  prior = stable_diffusion(path=str(folder), dtype='float32')
  est = vsd(rank=3).init(KEY, prior)
  est = {path: w if 'change' in w else w | {'up': .2 * jax.random.normal(KEY, w['up'].shape)}
         for path, w in est.items()}
  lora_files.save(tmp_path / 'learnt.safetensors', est)
  z, t = jax.random.normal(KEY, (1, *prior.latent)), 400
  text = prior.embed(PROMPT, '').plain[None]
  merged = prior.replace(weights=lora.beside(prior.weights, est))
  ours, before = (p.eps(z, jnp.array([t / 999.]), text, None) for p in (merged, prior))
  ours = prior_output(ours, z, t, prior)
  pipe.load_lora_weights(tmp_path, weight_name='learnt.safetensors')
  rows = pipe.encode_prompt(PROMPT, device='cpu', num_images_per_prompt=1,
                            do_classifier_free_guidance=False)[0]
  with torch.no_grad():
    there = pipe.unet(torch.from_numpy(np.asarray(z).transpose(0, 3, 1, 2).copy()),
                      torch.tensor(t), rows).sample.permute(0, 2, 3, 1).numpy()
  pipe.unload_lora_weights()
  assert np.abs(ours - there).max() < PREDICTION * np.abs(there).max()
  assert np.abs(prior_output(before, z, t, prior) - there).max() > .01


def prior_output(eps, z, t, prior):
  """What the network itself says, of the noise that it amounts to."""
  alpha, sigma = (float(f(jnp.array(t / 999.))) for f in (prior.schedule.alpha,
                                                          prior.schedule.sigma))
  return eps if prior.predicted == 'epsilon' else (eps - sigma * z) / alpha
