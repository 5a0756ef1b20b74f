"""python -P forward.py FOLDER IN.npz OUT.npz: what diffusers and transformers make of the inputs
with the weights of a folder in their layout, in float32.

IN.npz holds arrays by 'part/argument', and by 'part/variant' the mark in the names of a part's
weights, '' for none; OUT.npz by 'part' or 'part/output'. Images are NHWC outside, NCHW inside. Of
the folder, safetensors and configs alone are read, and none of its code.
"""
import sys

import diffusers
import numpy as np
import torch
import transformers


def first(x: np.ndarray) -> torch.Tensor:
  """Channels first, where it is a picture."""
  return torch.from_numpy(x.transpose(0, 3, 1, 2).copy() if x.ndim == 4 else x)


def last(x: torch.Tensor) -> np.ndarray:
  """Channels last again."""
  return x.permute(0, 2, 3, 1).numpy() if x.ndim == 4 else x.numpy()


def opened(cls, folder: str, part: str, variant: str, **dtype):
  """A part of the folder by a class of theirs, without dropout: they open it for use."""
  return cls.from_pretrained(folder, subfolder=part, variant=variant or None, use_safetensors=True,
                             local_files_only=True, **dtype)


def unet(model, x: dict) -> dict:
  """The noise it predicts, or what it does."""
  told = {name: x[name] for name in ('text_embeds', 'time_ids') if name in x}
  out = model(x['sample'], x['timesteps'], x['words'], class_labels=x.get('class_labels'),
              added_cond_kwargs=told or None)
  return {'': out.sample}


def vae(model, x: dict) -> dict:
  """The posterior's mean of an image, and the image of a latent."""
  return {'encode': model.encode(x['image']).latent_dist.mean,
          'decode': model.decode(x['latent']).sample}


def text(model, x: dict) -> dict:
  """The last layer's words, or the embedding of the whole, and the words before the last layer."""
  out = model(x['tokens'].long(), output_hidden_states=True)
  return {'': out.text_embeds if hasattr(out, 'text_embeds') else out.last_hidden_state,
          'penultimate': out.hidden_states[-2]}


PARTS = {'unet': (diffusers.UNet2DConditionModel, unet), 'vae': (diffusers.AutoencoderKL, vae),
         'text_encoder': (transformers.CLIPTextModel, text),
         'text_encoder_2': (transformers.CLIPTextModelWithProjection, text)}


@torch.no_grad()
def main(folder: str, given: str, out: str):
  """Runs every part that there are inputs for."""
  arrays, found = dict(np.load(given)), {}
  for part, (cls, run) in PARTS.items():
    inputs = {key.partition('/')[2]: value for key, value in arrays.items()
              if key.startswith(f'{part}/')}
    if inputs:
      variant = str(inputs.pop('variant'))
      dtype = {'dtype' if cls.__module__.startswith('transformers') else
               'torch_dtype': torch.float32}
      model = opened(cls, folder, part, variant, **dtype)
      said = run(model, {name: first(value) for name, value in inputs.items()})
      found |= {f'{part}/{name}'.rstrip('/'): last(value) for name, value in said.items()}
  np.savez(out, **found)


if __name__ == '__main__':
  main(*sys.argv[1:])
