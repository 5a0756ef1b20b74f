"""Torch's side of compare.py: the same outputs and gradients by the classes of diffusers and
transformers."""
import functools

import cases
import compare
import make_golden
import make_golden_depth
import numpy as np
import torch


def unet(name):
  model, (_, *rest) = make_golden.unet(name), cases.unet_inputs(name)
  return lambda x: make_golden.run_unet(model, x, *rest, **cases.unet_extras(name))


def vae(name, method):
  model = make_golden.vae(cases.VAES[name])
  return lambda x: make_golden.run_encode(model, x)[
      0] if method == 'encode' else make_golden.run_decode(model, x)


def clip(name):
  model = make_golden.clip(cases.CLIPS[name])
  return lambda ids: make_golden.run_clip(model, ids.numpy())[0]


def clip_projection(name):
  model = make_golden.clip_projection(cases.CLIPS[name])
  return lambda ids: make_golden.run_clip_projection(model, ids.numpy())[0]


def clip_vision(name):
  return functools.partial(make_golden.run_vision, make_golden.vision(cases.VISIONS[name]))


def depth(family, name, size):
  return functools.partial(make_golden_depth.run, getattr(make_golden_depth, family)(name))


FAMILIES = {'unet': unet, 'vae': vae, 'clip': clip, 'clip_projection': clip_projection,
            'clip_vision': clip_vision, 'depth': depth}


def theirs(family, *arguments):
  """As compare.ours."""
  case, run = compare.FAMILIES[family](*arguments), FAMILIES[family](*arguments)
  x = torch.from_numpy(np.array(case.x))
  if case.cotangent is None:
    return run(x).detach().numpy(), None
  return pulled_back(run, x, case.cotangent)


def pulled_back(run, x, cotangent):
  """Output, and the cotangent pulled back to the input."""
  out = run(x.requires_grad_())
  out.backward(torch.from_numpy(cotangent))
  return out.detach().numpy(), x.grad.numpy()
