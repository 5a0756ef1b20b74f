"""A whole step of configs/dreamfusion_sd.py or prolificdreamer_sd.py in plain PyTorch, as one would
write it: autograd, Adam, torch.compile.   python -m benchmarks.torch_step --name=dreamfusion_sd

Same networks, scene, sizes, samples, views, guidance and losses as ours; tests/parity holds its
gradient against ours. Prints a line of JSON for each way of running it, milliseconds of a step at
random weights: `eager`, and `compiled`, which compiles the networks; then of the UNet alone with
--unet. It is a process of its own, since torch and jax may bring different versions of CUDA's
libraries; benchmarks.gpu starts it.
"""
import argparse
import dataclasses
import functools
import json
import os
import statistics
import time
from typing import Any, NamedTuple

os.environ.setdefault('JAX_PLATFORMS', 'cpu')      # it only tells what ours begins with

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from benchmarks import full_size, torch_nets, torch_scene  # noqa: E402
from jaxdreamer.nn import vae  # noqa: E402


class Model(NamedTuple):
  """Networks and what the config says of the step."""
  render: Any                      # torch_scene.render
  unet: Any                        # (params, z_t, timesteps, text, where) -> eps_hat
  encode: Any                      # (params, x in [-1, 1]) -> mean, logvar
  pixels: int                      # of a side of what the encoder takes
  scale: float                     # of latents
  steps: int                       # of the noise schedule
  log_alpha: torch.Tensor
  scene: torch_scene.Scene
  guidance: float
  orientation: float               # weights of the regularizers at this step
  sparsity: float
  lora: bool                       # VSD, with a LoRA of its own; else SDS


class Noise(NamedTuple):
  """What a step draws of the latents, of V views."""
  t: torch.Tensor                  # [V]
  eps: torch.Tensor                # [V, 4, h, w]
  weight: torch.Tensor             # [V]
  posterior: torch.Tensor          # [V, 4, h, w]
  text: torch.Tensor               # [V, L, D] with the words of the view
  null: torch.Tensor
  plain: torch.Tensor
  where: torch.Tensor              # [V, 16] cameras
  # of the LoRA's own training: its times, noises, and cameras where it may know them
  t_lora: torch.Tensor
  eps_lora: torch.Tensor
  where_lora: torch.Tensor


def rates(model, t):
  """alpha, sigma [V, 1, 1, 1]."""
  place = t * (model.steps - 1)
  low = place.floor().long().clamp(0, model.steps - 2)
  part = place - low
  alpha = torch.exp((1. - part) * model.log_alpha[low] + part * model.log_alpha[low + 1])
  return tuple(a[:, None, None, None] for a in (alpha, (1. - alpha ** 2).sqrt()))


def rendered_latents(model, params, weights, given, noise, size):
  """(z [V, 4, h, w], regularizers [])."""
  rgb, opacity, orientation = model.render(params, given, scene=model.scene)
  cost = model.orientation * orientation.sum() / (opacity > 1e-3).sum().clamp(min=1)
  cost = cost + model.sparsity * (opacity ** 2 + .01).sqrt().mean()
  image = rgb.reshape(-1, size, size, 3).permute(0, 3, 1, 2)
  image = F.interpolate(image, (model.pixels, model.pixels), mode='bilinear', align_corners=False)
  mean, logvar = model.encode(weights['vae'], 2. * image - 1.)
  return model.scale * (mean + torch.exp(.5 * logvar) * noise.posterior), cost


def predicted(model, weights, z, t, eps, text, where):
  """eps_hat at z noised to t by eps."""
  alpha, sigma = rates(model, t)
  return model.unet(weights, alpha * z + sigma * eps, t * (model.steps - 1), text, where)


def residual(model, weights, est, z, noise):
  """The cotangent at z: DreamFusion Eq. 3, or ProlificDreamer Eq. 9."""
  twice = lambda a: torch.cat([a, a])
  eps_y, eps_null = predicted(model, weights['unet'], twice(z), twice(noise.t), twice(noise.eps),
                              torch.cat([noise.text, noise.null]), twice(noise.where)).chunk(2)
  eps_hat = eps_null + model.guidance * (eps_y - eps_null)
  learned = predicted(model, weights['unet'] | est, z, noise.t, noise.eps, noise.plain,
                      noise.where) if model.lora else noise.eps
  return noise.weight[:, None, None, None] * (eps_hat - learned)


def backward(model, params, est, weights, given, noise, *, size):
  """Adds the step's gradients to those of `params` and `est`."""
  z, cost = rendered_latents(model, params, weights, given, noise, size)
  with torch.no_grad():
    r = residual(model, weights, est, z.detach(), noise)
  torch.autograd.backward([z, cost], [r / len(z), torch.ones_like(cost)])
  if model.lora:
    eps_hat = predicted(model, weights['unet'] | est, z.detach(), noise.t_lora, noise.eps_lora,
                        noise.plain, noise.where_lora)
    F.mse_loss(eps_hat, noise.eps_lora).backward()


def leaves(params):
  """All tensors of nested params."""
  if isinstance(params, dict):
    return [x for value in params.values() for x in leaves(value)]
  return [x for value in params for x in leaves(value)] if isinstance(params, list) else [params]


def lora_tensors(small, *, device):
  """What a LoRA has beside the UNet's parameters, by published keys."""
  import numpy as np

  from jaxdreamer.weights.safetensors_io import key_of
  return {key_of(tuple(f'{path}_{part}'.removeprefix('unet/').split('/'))):
          torch.from_numpy(np.array(x, np.float32)).to(device).requires_grad_()
          for path, w in small.items() for part, x in w.items()}


def scene_tensors(scene, *, device):
  """The parameters of our scene as torch_scene's."""
  import numpy as np
  each = lambda x: torch.from_numpy(np.array(x, np.float32)).to(device).requires_grad_()
  field = scene['field']
  return {name: [each(x) for x in values] for name, values in (
    ('tables', field['tables']), ('density', field['density']), ('features', field['features']),
    ('background', scene['background']['network']))}


def scene_of(config):
  from jaxdreamer.scenes import hashgrid
  s, lit = config.scene.hashgrid, config.render.shaded != (0.,)
  sizes = tuple(hashgrid.resolution(i, levels=s.levels, base=s.base, finest=s.finest)
                for i in range(s.levels))
  return torch_scene.Scene(sizes, s.strength, s.radius, s.extent, config.render.radius,
                           normals=lit or config.regularizers.orientation != (0.,))


def model_of(config, training, *, device, compiled=False):
  """The step of a config at step 0; `compiled` compiles its networks, and the renderer where
  nothing differentiates it twice."""
  import numpy as np

  from jaxdreamer.weights import model_shapes
  wired, *_ = model_shapes.MODELS['sd21-base']
  wired = dataclasses.replace(wired, class_embed_type='projection',
                              projection_class_embeddings_input_dim=16)
  vae_config = vae.config_from_diffusers(model_shapes.VAE)
  betas = np.linspace(.00085 ** .5, .012 ** .5, 1000) ** 2
  log_alpha = torch.tensor(.5 * np.cumsum(np.log1p(-betas)), dtype=torch.float32, device=device)
  wrap = functools.partial(torch.compile, dynamic=False) if compiled else lambda f: f
  scene, e, g = scene_of(config), config.estimator, config.regularizers
  pixels = training.prior.latent[0] * 2 ** (len(vae_config.block_out_channels) - 1)
  return Model(
    torch_scene.render if scene.normals else wrap(torch_scene.render),
    wrap(lambda p, z, t, text, where: torch_nets.unet(p, wired, z, t, text, where)),
    wrap(lambda p, x: torch_nets.encode(p, vae_config, x)), pixels, vae_config.scaling_factor,
    1000, log_alpha, scene, e[e.name].guidance[0], g.orientation[0], g.sparsity[0],
    e.name == 'vsd')


def drawn(model, config, training, *, size, device):
  """A step's own random numbers, drawn on the device as ours are: cameras around, a lamp that is
  out."""
  views, r = config.sampling.views, config.render
  normal = lambda *shape: torch.randn(shape, device=device)
  rand = lambda *shape: torch.rand(shape, device=device)
  high, _, channels = training.prior.latent
  latent, words = (views, channels, high, high), training.text(0).plain.shape
  place = F.normalize(normal(views, 3), dim=-1) * 1.8
  ahead = F.normalize(-place, dim=-1)
  z = torch.tensor([0., 0., 1.], device=device).expand_as(ahead)
  right = F.normalize(torch.linalg.cross(ahead, z), dim=-1)
  up = torch.linalg.cross(right, ahead)
  steps = torch.linspace(-.45, .45, size, device=device)
  y, x = torch.meshgrid(-steps, steps, indexing='ij')
  of_view = lambda v: v[:, None, None]
  direction = (of_view(ahead) + x[..., None] * of_view(right) + y[..., None] * of_view(up))
  strata = lambda n: (torch.arange(n, device=device) + rand(views * size * size, n)) / n
  lamp = (place[0], *torch.tensor([1., 0., 0.], device=device)) if (
    config.render.shaded != (0.,)) else None
  given = torch_scene.Given(
    place.repeat_interleave(size * size, 0), F.normalize(direction.flatten(0, 2), dim=-1),
    strata(r.samples), strata(r.fine), torch.ones(len(model.scene.sizes), device=device), lamp)
  where, text = torch.zeros(views, 16, device=device), normal(views, *words)
  t = .02 + .96 * rand(views)
  return given, Noise(t, normal(*latent), rates(model, t)[1].flatten() ** 2, normal(*latent),
                      text, text, text, where, rand(views), normal(*latent), where)


def on(device, weights):
  """Random weights of the networks, of half precision on a GPU."""
  dtype = torch.bfloat16 if device == 'cuda' else torch.float32
  def laid(x):
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
  return {part: {key: laid(x) for key, x in torch_nets.random_tensors(
    weights[part], device=device, dtype=dtype).items()} for part in ('unet', 'vae')}


def make_step(config, training, state, *, device, compiled):
  """A function that takes one step with its optimizer."""
  model, weights = model_of(config, training, device=device, compiled=compiled), on(
    device, training.prior.weights)
  params = scene_tensors(state.params['scene'], device=device)
  est = lora_tensors(state.params['est'], device=device) if model.lora else {}
  groups = [{'params': leaves([params[name] for name in ('tables', 'density', 'features')]),
             'lr': .01}, {'params': params['background'], 'lr': .001}]
  if est:
    groups.append({'params': list(est.values()), 'lr': 1e-4})
  o = config.optim
  adam = torch.optim.AdamW(groups, betas=(o.b1, o.b2), eps=o.eps, weight_decay=o.weight_decay,
                           fused=device == 'cuda')
  size = config.render.stages[0][1] if config.render.stages else training.prior.image_size

  def step():
    given, noise = drawn(model, config, training, size=size, device=device)
    adam.zero_grad(set_to_none=True)
    backward(model, params, est, weights, given, noise, size=size)
    adam.step()
  return step


def milliseconds(run, *, device, seconds):
  """The median of calls in so many seconds, after three that do not count."""
  wait = torch.cuda.synchronize if device == 'cuda' else lambda: None
  for _ in range(3):
    run()
  wait()
  taken, end = [], time.monotonic() + seconds
  while not taken or time.monotonic() < end:
    begin = time.perf_counter()
    run()
    wait()
    taken.append(time.perf_counter() - begin)
  return 1e3 * statistics.median(taken)


def time_steps(name, *, tiny, device, seconds):
  """Prints the milliseconds of a step, eager and compiled."""
  import jax
  with full_size.models(tiny=tiny):
    config = full_size.config(name, tiny=tiny)
    training = full_size.training(config)
    state = training.init(jax.random.key(0))
    for way, compiled in (('eager', False), ('compiled', True)):
      attempt(way, lambda compiled=compiled: milliseconds(make_step(
        config, training, state, device=device, compiled=compiled), device=device,
                                                          seconds=seconds))


def time_unets(*, tiny, device, seconds):
  """Prints the milliseconds of the UNets' forward passes, eager and compiled."""
  dtype = torch.bfloat16 if device == 'cuda' else torch.float32
  for name, (config, side) in full_size.unets(tiny=tiny).items():
    p = {key: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
         for key, x in torch_nets.random_tensors(full_size.unet_shapes(config, side),
                                                 device=device, dtype=dtype).items()}
    for way, wrap in (('eager', lambda f: f),
                      ('compiled', functools.partial(torch.compile, dynamic=False))):
      for batch in full_size.BATCHES:
        x = [torch.from_numpy(a).to(device) for a in full_size.unet_inputs(config, side, batch)]
        z = x[0].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).to(dtype)
        more = dict(zip(('pooled', 'sizes'), x[3:]))
        forward = wrap(lambda z, t, text, config=config, p=p, more=more: torch_nets.unet(
          p, config, z, t, text, **more))
        words = x[2].to(dtype)
        run = torch.inference_mode()(lambda f=forward, a=(z, x[1], words): f(*a))
        attempt(f'{name}_batch{batch}_{way}',
                lambda run=run: milliseconds(run, device=device, seconds=seconds))


def attempt(name, measure):
  """Prints {name_ms: milliseconds}, or {name_error: what went wrong}."""
  try:
    found = {f'{name}_ms': measure()}
  except Exception as error:
    found = {f'{name}_error': ' '.join(f'{type(error).__name__}: {error}'.split())[:300]}
  print(json.dumps(found), flush=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(':')[0])
  parser.add_argument('--name', choices=full_size.STEPS, help='time a step of this config')
  parser.add_argument('--unet', action='store_true', help='time the UNets alone')
  parser.add_argument('--tiny', action='store_true', help='small networks')
  parser.add_argument('--seconds', type=float, default=4., help='of each measurement')
  options = parser.parse_args()
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
  if options.name:
    time_steps(options.name, tiny=options.tiny, device=device, seconds=options.seconds)
  if options.unet:
    time_unets(tiny=options.tiny, device=device, seconds=options.seconds)


if __name__ == '__main__':
  main()
