"""Writes golden/*.npz: `python tests/parity/make_golden.py [NAME]`, where torch, diffusers and
transformers are installed; with NAME those files alone whose names begin so.

Each file holds the outputs on cases.py's weights and inputs, and the checkpoint's keys with their
shapes.
"""
import sys

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
  state = {k: torch.from_numpy(cases.weight(k, tuple(v.shape)))
           for k, v in model.state_dict().items()
           if v.dtype.is_floating_point}
  model.load_state_dict(state, strict=False)
  return model.eval()


def shapes(model):
  """{key: shape} of the checkpoint, without integer buffers."""
  return {k: tuple(v.shape) for k, v in model.state_dict().items() if v.dtype.is_floating_point}


def unet(name):
  """The torch UNet of a case."""
  return multi_view(name) if name in cases.VIEWS else filled(
      UNet2DConditionModel(**cases.UNETS[name]))


class OneSequence:
  """Attention processor: the views of a scene as one sequence, softmax written out."""

  def __init__(self, views):
    self.views = views

  def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **rest):
    assert encoder_hidden_states is None and attention_mask is None, 'self-attention alone'
    b, n, c = hidden_states.shape
    scenes = hidden_states.reshape(b // self.views, self.views * n, c)
    q, k, v = (project(scenes).unflatten(2, (attn.heads, -1)).transpose(1, 2)
               for project in (attn.to_q, attn.to_k, attn.to_v))
    scores = torch.softmax(q @ k.transpose(2, 3) * q.shape[3] ** -.5, 3)
    return attn.to_out[0]((scores @ v).transpose(1, 2).flatten(2)).reshape(b, n, c)


def multi_view(name):
  """MVDream of a case: diffusers' UNet with its self-attention replaced, and two layers for the
  camera under the names that MVDream's checkpoint gives them. `run_unet` adds what they say to the
  embedding of time."""
  config = {k: v for k, v in cases.UNETS[name].items() if 'class_embed' not in k}
  model = UNet2DConditionModel(**config)
  width = 4 * config['block_out_channels'][0]
  model.camera_embed = torch.nn.Sequential(
      torch.nn.Linear(cases.UNETS[name]['projection_class_embeddings_input_dim'], width),
                                           torch.nn.SiLU(), torch.nn.Linear(width, width))
  for path, module in model.named_modules():
    if path.endswith('.attn1'):
      module.set_processor(OneSequence(cases.VIEWS[name]))
  return filled(model)


def run_unet(model, sample, timesteps, text, camera, text_embeds=None, time_ids=None):
  """NHWC in, NHWC out."""
  labels = None if camera is None else torch.from_numpy(camera)
  x = torch.as_tensor(sample).permute(0, 3, 1, 2)
  added = None
  if text_embeds is not None:
    added = {'text_embeds': torch.from_numpy(text_embeds), 'time_ids': torch.from_numpy(time_ids)}
  if hasattr(model, 'camera_embed'):
    hook = model.time_embedding.register_forward_hook(lambda module, inputs, out: out
                                                      + model.camera_embed(labels))
    out = model(x, torch.from_numpy(timesteps), torch.from_numpy(text)).sample
    hook.remove()
  else:
    out = model(x, torch.from_numpy(timesteps), torch.from_numpy(text), class_labels=labels,
                added_cond_kwargs=added).sample
  return out.permute(0, 2, 3, 1)


def unet_with_gradient(model, name):
  """The case's output, and its cotangent pulled back to the sample."""
  sample, *rest = cases.unet_inputs(name)
  sample = torch.from_numpy(sample).requires_grad_()
  with torch.enable_grad():
    out = run_unet(model, sample, *rest, **cases.unet_extras(name))
    out.backward(torch.from_numpy(cases.unet_cotangent(name)))
  return out.detach(), sample.grad


def clip(config):
  """The torch text tower of a case, with keys as transformers 5 has them, and as older releases
  did."""
  return filled(CLIPTextModel(CLIPTextConfig(**config, bos_token_id=1, pad_token_id=0)))


def run_clip(model, ids):
  """last_hidden_state, pooled, penultimate."""
  out = model(torch.from_numpy(ids).long(), output_hidden_states=True)
  return out.last_hidden_state, out.pooler_output, out.hidden_states[-2]


def clip_projection(config):
  """The torch text tower of a case, with its projection."""
  return filled(CLIPTextModelWithProjection(CLIPTextConfig(**config, bos_token_id=1,
                                                           pad_token_id=0)))


def run_clip_projection(model, ids):
  """The embedding, penultimate."""
  out = model(torch.from_numpy(ids).long(), output_hidden_states=True)
  return out.text_embeds, out.hidden_states[-2]


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
  """One golden file, if its name is asked for."""
  if not name.startswith(''.join(sys.argv[1:2])):
    return
  keys = [f'{k}|{",".join(map(str, s))}' for k, s in shapes(model).items()]
  np.savez_compressed(cases.GOLDEN / f'{name}.npz', keys=keys,
                      **{k: v.numpy() for k, v in outputs.items()})


if __name__ == '__main__':
  with torch.no_grad():
    for name in cases.UNETS:
      model = unet(name)
      out, gradient = unet_with_gradient(model, name)
      write(f'unet_{name}', model, out=out,
            **({'gradient': gradient} if name in ('sdxl', 'mvdream') else {}))
    for name, config in cases.CLIPS.items():
      model = clip(config)
      hidden, pooled, penultimate = run_clip(model, cases.clip_inputs(config))
      write(f'clip_{name}', model, hidden=hidden, pooled=pooled, penultimate=penultimate)
      model = clip_projection(config)
      embedding, penultimate = run_clip_projection(model, cases.clip_inputs(config))
      write(f'clip_projection_{name}', model, embedding=embedding, penultimate=penultimate)
    for name, config in cases.VISIONS.items():
      model = vision(config)
      write(f'clip_vision_{name}', model, embedding=run_vision(model, cases.vision_inputs(config)))
    for name, config in cases.VAES.items():
      model = vae(config)
      image, latent, cotangents = cases.vae_inputs(config)
      mean, logvar = run_encode(model, image)
      write(f'vae_{name}', model, mean=mean, logvar=logvar, image=run_decode(model, latent),
            gradient=encode_gradient(model, image, cotangents))
