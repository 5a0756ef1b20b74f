"""Writes golden/dpt_*.npz and golden/depth_anything_*.npz: `python
tests/parity/make_golden_depth.py`, where torch and transformers are installed. Each file holds a
sample of outputs and of derivatives by the image on cases_depth.py's weights and images, and the
checkpoint's keys with their shapes."""
import functools

import cases
import cases_depth
import numpy as np
import torch
from transformers import (
  DepthAnythingConfig,
  DepthAnythingForDepthEstimation,
  DPTConfig,
  DPTForDepthEstimation,
)


def filled(model):
  """The model with cases_depth.py's weights."""
  model.load_state_dict({k: torch.from_numpy(cases_depth.weight(k, tuple(v.shape)))
                         for k, v in model.state_dict().items()})
  return model.eval()


def shapes(model):
  """{key: shape} of the checkpoint."""
  return {k: tuple(v.shape) for k, v in model.state_dict().items()}


def dpt(name):
  """The torch DPT-Hybrid of a case, taught to take images of any size and to answer in several
  channels."""
  config = DPTConfig(**cases_depth.DPTS[name])
  model = DPTForDepthEstimation(config)
  if cases_depth.HEAD_CHANNELS[name] > 1:
    model.head.head[4] = torch.nn.Conv2d(32, cases_depth.HEAD_CHANNELS[name], 1)
  model.dpt.embeddings.forward = functools.partial(model.dpt.embeddings.forward,
                                                   interpolate_pos_encoding=True)
  return filled(model)


def depth_anything(name):
  """The torch Depth Anything of a case."""
  return filled(DepthAnythingForDepthEstimation(DepthAnythingConfig(**cases_depth.DEPTH_ANYTHINGS[
      name])))


def run(model, image):
  """NHWC in; [B, H, W] or [B, H, W, 3] out."""
  x = torch.as_tensor(image).permute(0, 3, 1, 2)
  if isinstance(model, DPTForDepthEstimation):           # the class takes the grid for square
    neck = type(model.neck).forward
    model.neck.forward = lambda states, *_: neck(model.neck, states, x.shape[2] // 16,
                                                 x.shape[3] // 16)
  out = model(x).predicted_depth
  return out.permute(0, 2, 3, 1) if out.ndim == 4 else out


def run_with_gradient(model, name, size):
  """Output, and the image's gradient."""
  image = torch.from_numpy(cases_depth.image(name, size)).requires_grad_()
  out = run(model, image)
  out.backward(torch.from_numpy(cases_depth.cotangent(name, out.shape)))
  return out.detach().numpy(), image.grad.numpy()


def write(family, name, model):
  """One golden file."""
  stored = {'keys': [f'{k}|{",".join(map(str, s))}' for k, s in shapes(model).items()]}
  for size in cases_depth.SIZES[name]:
    out, gradient = run_with_gradient(model, name, size)
    print(family, name, size, 'output', out.min(), out.mean(), out.max(), 'zero', (out == 0).mean(),
          'std', out.std(),
          'gradient', np.abs(gradient).max())
    tag = f'{size[0]}x{size[1]}'
    stored |= {f'out_{tag}': cases_depth.sampled(out),
               f'gradient_{tag}': cases_depth.sampled(gradient)}
  np.savez_compressed(cases.GOLDEN / f'{family}_{name}.npz', **stored)


if __name__ == '__main__':
  for name in cases_depth.DPTS:
    write('dpt', name, dpt(name))
  for name in cases_depth.DEPTH_ANYTHINGS:
    write('depth_anything', name, depth_anything(name))
