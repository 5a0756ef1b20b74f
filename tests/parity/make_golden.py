"""Writes golden/*.npz: `python tests/parity/make_golden.py`, where torch, diffusers and transformers are installed.

Each file holds the outputs on cases.py's weights and inputs, and the checkpoint's keys with their shapes.
"""
import cases
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
  CLIPTextConfig,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  CLIPVisionConfig,
  CLIPVisionModelWithProjection,
)


def filled(model):
  """The model with cases.py's weights."""
  state = {k: torch.from_numpy(cases.weight(k, tuple(v.shape))) for k, v in model.state_dict().items()
           if v.dtype.is_floating_point}
  model.load_state_dict(state, strict=False)
  return model.eval()


def shapes(model):
  """{key: shape} of the checkpoint, without integer buffers."""
  return {k: tuple(v.shape) for k, v in model.state_dict().items() if v.dtype.is_floating_point}


def unet(config):
  """The torch UNet of a case."""
  return filled(UNet2DConditionModel(**config))


def run_unet(model, sample, timesteps, text, camera):
  """NHWC in, NHWC out."""
  labels = None if camera is None else torch.from_numpy(camera)
  x = torch.as_tensor(sample).permute(0, 3, 1, 2)
  return model(x, torch.from_numpy(timesteps), torch.from_numpy(text), class_labels=labels).sample.permute(0, 2, 3, 1)


def clip(config):
  """The torch text tower of a case, with keys as transformers 5 has them, and as older releases did."""
  return filled(CLIPTextModel(CLIPTextConfig(**config, bos_token_id=1, pad_token_id=0)))


def run_clip(model, ids):
  """last_hidden_state, pooled."""
  out = model(torch.from_numpy(ids).long())
  return out.last_hidden_state, out.pooler_output


def clip_projection(config):
  """The torch text tower of a case, with its projection."""
  return filled(CLIPTextModelWithProjection(CLIPTextConfig(**config, bos_token_id=1, pad_token_id=0)))


def run_clip_projection(model, ids):
  """The embedding."""
  return model(torch.from_numpy(ids).long()).text_embeds


def vision(config):
  """The torch image tower of a case."""
  return filled(CLIPVisionModelWithProjection(CLIPVisionConfig(**config)))


def run_vision(model, image):
  """NHWC in, the embedding out."""
  return model(torch.as_tensor(image).permute(0, 3, 1, 2)).image_embeds


def vae(config):
  """The torch autoencoder of a case."""
  return filled(AutoencoderKL(**config))


def run_encode(model, image):
  """NHWC in, the posterior's mean and logvar out, NHWC."""
  posterior = model.encode(torch.as_tensor(image).permute(0, 3, 1, 2)).latent_dist
  return posterior.mean.permute(0, 2, 3, 1), posterior.logvar.permute(0, 2, 3, 1)


def run_decode(model, latent):
  """NHWC in, NHWC out."""
  return model.decode(torch.as_tensor(latent).permute(0, 3, 1, 2)).sample.permute(0, 2, 3, 1)


def encode_gradient(model, image, cotangents):
  """The cotangents of mean and logvar pulled back to the image."""
  image = torch.from_numpy(image).requires_grad_()
  with torch.enable_grad():
    torch.autograd.backward(run_encode(model, image), [torch.from_numpy(c) for c in cotangents])
  return image.grad


def write(name, model, **outputs):
  """One golden file."""
  keys = [f'{k}|{",".join(map(str, s))}' for k, s in shapes(model).items()]
  np.savez_compressed(cases.GOLDEN / f'{name}.npz', keys=keys, **{k: v.numpy() for k, v in outputs.items()})


if __name__ == '__main__':
  with torch.no_grad():
    for name, config in cases.UNETS.items():
      model = unet(config)
      write(f'unet_{name}', model, out=run_unet(model, *cases.unet_inputs(config)))
    for name, config in cases.CLIPS.items():
      model = clip(config)
      hidden, pooled = run_clip(model, cases.clip_inputs(config))
      write(f'clip_{name}', model, hidden=hidden, pooled=pooled)
      model = clip_projection(config)
      write(f'clip_projection_{name}', model, embedding=run_clip_projection(model, cases.clip_inputs(config)))
    for name, config in cases.VISIONS.items():
      model = vision(config)
      write(f'clip_vision_{name}', model, embedding=run_vision(model, cases.vision_inputs(config)))
    for name, config in cases.VAES.items():
      model = vae(config)
      image, latent, cotangents = cases.vae_inputs(config)
      mean, logvar = run_encode(model, image)
      write(f'vae_{name}', model, mean=mean, logvar=logvar, image=run_decode(model, latent),
            gradient=encode_gradient(model, image, cotangents))
