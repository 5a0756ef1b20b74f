"""Stable Diffusion in one safetensors file: the key layout of the original latent-diffusion code
(Rombach et al. 2022).

    all      model.diffusion_model.*  first_stage_model.*
    SD 1.x   cond_stage_model.transformer.*            CLIP ViT-L as in transformers
    SD 2.x   cond_stage_model.model.*                  OpenCLIP ViT-H
    MVDream  as SD 2.x, with camera_embed in its UNet
    SDXL     conditioner.embedders.0.transformer.*     CLIP-L
             conditioner.embedders.1.model.*           OpenCLIP-G

`parts` finds each part's config and the rows for safetensors_io.load that read it by ldm_parts.py.
What shapes do not tell is the family's: heads, activations, groups of the norms.
An SD 2.x text encoder comes without its last layer, as the UNet was trained on the one before.
Shapes do not tell either whether a UNet predicts eps or v: where neither a marker key (v_pred,
ztsnr) nor the metadata (modelspec.prediction_type) does, that of SD 1.x, SDXL and MVDream is taken
to be eps, that of SD 2.x is left None, as where the two contradict each other.
ValueError, in one line, for every other layout, says what the file is instead.
"""
import re

from jaxdreamer.weights import foreign, safe_files
from jaxdreamer.weights.ldm_parts import LEFT_OVER, UNET, VAE, clip, open_clip, unet, vae
from jaxdreamer.weights.tensor_files import Tensors

CLIP_1, OPEN_CLIP_2 = 'cond_stage_model.transformer.', 'cond_stage_model.model.'
CLIP_XL, OPEN_CLIP_XL = 'conditioner.embedders.0.transformer.', 'conditioner.embedders.1.model.'
# empty tensors by whose names a file says that it predicts v, and of pure noise too
V_PRED, ZTSNR = 'v_pred', 'ztsnr'
PREDICTED = {'v': 'v_prediction', 'vpred': 'v_prediction', 'vprediction': 'v_prediction',
             'velocity': 'v_prediction',
             'epsilon': 'epsilon', 'eps': 'epsilon', 'noise': 'epsilon', 'sample': 'sample',
             'x0': 'sample'}
SCHEDULER = dict(num_train_timesteps=1000, beta_start=.00085, beta_end=.012,
                 beta_schedule='scaled_linear')


def parts(file: Tensors) -> dict[str, tuple[dict, tuple]]:
  """{name as in model_index.json: (config, rows for loading)}; the scheduler's has no rows."""
  kept = [key for key in file.entries if not LEFT_OVER.match(key) and key not in (V_PRED, ZTSNR)]
  prefixes = {p for p in (CLIP_1, OPEN_CLIP_2, CLIP_XL, OPEN_CLIP_XL)
              if any(key.startswith(p) for key in kept)}
  families = {(CLIP_1,): sd1, (OPEN_CLIP_2,): sd2, (CLIP_XL, OPEN_CLIP_XL): sdxl}
  family = families.get(tuple(sorted(prefixes)))
  if family is None:
    if found := foreign.keys(kept, file.metadata):
      raise ValueError(f'{file.path} is no known Stable Diffusion: it {found}')
    raise ValueError(f'{file.path} is no known Stable Diffusion: text encoders {sorted(prefixes)} '
                     f'of {sorted(families)}; '
                     f'give a folder in the layout of diffusers')
  if others := sorted(key for key in kept if not key.startswith((UNET, VAE, *prefixes))):
    found = foreign.keys(others, {})
    raise ValueError(f'{file.path} holds tensors of no known part: {safe_files.listed(others)}'
                     + (f'; it {found}' if found else ''))
  if all(not key.startswith((UNET, VAE)) for key in kept):
    raise ValueError(f'{file.path} is no known Stable Diffusion: it {foreign.keys(kept, {})}')
  return family(file)


def scheduler(file: Tensors, usual: str | None) -> tuple[dict, tuple]:
  """The forward process, with what the file says that its UNet predicts; `usual` is its
  family's."""
  told = file.metadata.get('modelspec.prediction_type', '').strip()
  said = {PREDICTED.get(re.sub('[-_ ]', '', told.lower()), told)} - {''} | (
      {'v_prediction'} if V_PRED in file.entries else set())
  pure = ZTSNR in file.entries or file.metadata.get('ss_zero_terminal_snr', '').lower() == 'true'
  predicted = (said or {usual}).pop() if len(said) < 2 else None
  return SCHEDULER | {'prediction_type': predicted} | ({'rescale_betas_zero_snr': True} if pure
                                                       else {}), ()


def sd1(file: Tensors) -> dict[str, tuple[dict, tuple]]:
  """Stable Diffusion 1.x."""
  return {'unet': unet(file, lambda channels: 8), 'vae': vae(file, .18215),
          'text_encoder': clip(file, CLIP_1),
          'scheduler': scheduler(file, 'epsilon')}


def sd2(file: Tensors) -> dict[str, tuple[dict, tuple]]:
  """Stable Diffusion 2.x, and MVDream."""
  usual = 'epsilon' if f'{UNET}camera_embed.0.weight' in file.entries else None
  return {'unet': unet(file, lambda channels: [max(1, c // 64) for c in channels]),
          'vae': vae(file, .18215),
          'text_encoder': open_clip(file, OPEN_CLIP_2, False),
          'scheduler': scheduler(file, usual)}


def sdxl(file: Tensors) -> dict[str, tuple[dict, tuple]]:
  """Stable Diffusion XL."""
  return {'unet': unet(file, lambda channels: [max(1, c // 64) for c in channels]),
          'vae': vae(file, .13025),
          'text_encoder': clip(file, CLIP_XL),
          'text_encoder_2': open_clip(file, OPEN_CLIP_XL, True),
          'scheduler': scheduler(file, 'epsilon')}


