"""benchmarks.torch_step takes our step: its networks are those of the golden files, and of the same
weights, rays and noise it has our gradient."""
import functools
import math

import cases
import compare
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import error

from jaxdreamer import cameras, conditioning, render, volume
from jaxdreamer.nn import unet_config

pytest.importorskip('torch')
import torch  # noqa: E402

from benchmarks import full_size, torch_nets, torch_scene, torch_step  # noqa: E402

NAMES = ('sd1', 'sd2', 'sdxl')
tensor = lambda x: torch.from_numpy(np.array(x, np.float32))
first = lambda x: tensor(np.moveaxis(np.asarray(x), -1, 1))


@pytest.mark.parametrize('name', NAMES)
def test_the_unet_in_plain_torch_reproduces_the_stored_outputs(name):
  config, (z, t, text, where) = (unet_config.from_diffusers(cases.UNETS[name]),
                                 cases.unet_inputs(name))
  p = {key: tensor(cases.weight(key, shape))
       for key, shape in compare.shapes_of(f'unet_{name}').items()}
  more = {torchs: tensor(cases.unet_extras(name)[ours]) for torchs, ours in (
    ('pooled', 'text_embeds'), ('sizes', 'time_ids')) if ours in cases.unet_extras(name)}
  out = torch_nets.unet(p, config, first(z), tensor(t), tensor(text),
                        None if where is None else tensor(where), **more)
  golden = np.load(cases.GOLDEN / f'unet_{name}.npz')['out']
  assert error(np.moveaxis(out.numpy(), 1, -1), golden) < 2e-5


def as_given(key, config, camera, step, size):
  """What render.image draws for one view, as torch_scene.Given."""
  r = config.render
  k_image, k_background, k_light = jax.random.split(key, 3)
  uniforms = lambda k, n: jax.vmap(functools.partial(volume.stratified, n=n))(
    jax.random.split(k, size * size))
  u, u_fine = (uniforms(k, n) for k, n in zip(jax.random.split(k_image), (r.samples, r.fine)))
  rays = jax.tree.map(lambda a: tensor(a.reshape(-1, 3)), cameras.rays(camera, size))
  k_which, k_random, _ = jax.random.split(k_background, 3)
  random = jax.random.bernoulli(k_which, r.random_background)
  flat = tensor(jax.random.uniform(k_random, (3,))) if random else None
  levels = config.scene.hashgrid.levels
  band = config.scene.hashgrid.band
  share = tensor(np.clip((band[0] if len(band) > 1 else 64.) - np.arange(levels), 0., 1.))
  lamp = None
  if r.shaded != (0.,):
    light = render.sample_light(k_light, camera, shaded=r.shaded[0],
                                textureless=r.textureless[0], **r.light)
    lamp = tuple(map(tensor, (light.position, light.ambient, light.diffuse, light.textureless)))
  return torch_scene.Given(*rays, tensor(u), tensor(u_fine), share, lamp, flat)


def as_noise(training, config, camera, draws, keys, text):
  """What the step draws of the latents, as torch_step.Noise, and what VSD's loss draws."""
  front, back = (math.radians(config.cameras[side]) for side in ('front', 'back'))
  views = conditioning.condition(text, camera, words=functools.partial(
    cameras.view_bin, front=front, back=back))
  latent = training.prior.latent
  posterior = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 101),
                                                     (1, *latent))[0])(keys)
  more = jax.vmap(lambda key: jax.random.split(key, 3))(draws.key)
  t = jax.vmap(jax.random.uniform)(more[:, 0])
  eps = jax.vmap(lambda key: jax.random.normal(key, latent))(more[:, 1])
  known = jax.vmap(jax.random.uniform)(more[:, 2]) >= config.estimator.vsd.dropped
  where = np.reshape(camera.world_from_camera, (-1, 16))
  return torch_step.Noise(
    tensor(draws.t), first(draws.eps), tensor(draws.weight), first(posterior), tensor(views.text),
    tensor(views.negative), tensor(views.plain), tensor(where), tensor(t), first(eps),
    tensor(where * np.asarray(known)[:, None]))


@pytest.mark.slow
@pytest.mark.parametrize('name', full_size.STEPS)
def test_a_step_in_plain_torch_has_our_gradient(name):
  with full_size.models(tiny=True):
    config = full_size.config(name, tiny=True)
    config.scene.hashgrid.band = (3.5, 4., 10) if name == 'dreamfusion_sd' else (64.,)
    if name == 'dreamfusion_sd':
      config.render.update({'shaded': (1., 1., 10), 'textureless': (0.,)})     # the lamp is lit
    training = full_size.training(config)
    k_state, k_weights, k_text, k_step = jax.random.split(jax.random.key(1), 4)
    prior = training.prior.replace(weights=full_size.drawn(k_weights, training.prior.weights))
    prior.weights['unet'] = jax.tree.map(lambda x: 4. * x, prior.weights['unet'])
    text = full_size.drawn(k_text, training.text(0))
    params = training.init(k_state).params
    noisy = lambda x: x + .1 * jax.random.normal(jax.random.key(x.size), x.shape)
    params = {'scene': jax.tree.map(noisy, params['scene']), 'est': jax.tree.map(
      noisy, params['est'])}
    camera, draws, keys = training.parts.sample(k_step, jnp.arange(1), 0)
    ours, _ = jax.jit(training.parts.gradient, compiler_options=compare.QUICK)(
      params, prior, text, camera, draws, keys, 0)

    model = torch_step.model_of(config, training, device='cpu')
    scene = torch_step.scene_tensors(params['scene'], device='cpu')
    est = torch_step.lora_tensors(params['est'], device='cpu') if model.lora else {}
    weights = {part: torch_nets.tensors(prior.weights[part], device='cpu')
               for part in ('unet', 'vae')}
    given = as_given(keys[0], config, jax.tree.map(lambda x: x[0], camera), 0, 8)
    torch_step.backward(model, scene, est, weights, given,
                        as_noise(training, config, camera, draws, keys, text), size=8)
  expected = torch_step.scene_tensors(ours['scene'], device='cpu')
  for kind, values in scene.items():
    for x, slope in zip(values, expected[kind], strict=True):
      assert slope.abs().max() > 0. and error(x.grad.numpy(), slope.detach().numpy()) < 2e-3, kind
  if model.lora:
    for key, slope in torch_step.lora_tensors(ours['est'], device='cpu').items():
      assert error(est[key].grad.numpy(), slope.detach().numpy()) < 2e-3, key
