"""A red cube in 60 steps: text to 3D through the public API, with no config.

  python examples/first_object.py
"""
import math
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import optax

import jaxdreamer as jd

steps, folder = 60, pathlib.Path('runs/first_object')

# The parts: a frozen diffusion model, what it is told, a scene, and an estimator.
prior = jd.toybox_prior()
text = prior.embed('a red cube')
scene = jd.voxels()
estimator = jd.sds(guidance=lambda step: 3.)


# A picture: the scene as one camera sees it, over a color of its own.
def render(code, camera, key, step):
  color = jax.random.uniform(jax.random.fold_in(key, 1), (3,))
  return jd.render_image(key, partial(scene.field, code), camera, size=prior.image_size,
                         samples=16, fine=16, background=lambda direction: color)


# A step: four views and their noise, the residual pulled back to the scene, Adam.
sample = jd.make_sample(
  design=jd.stratified, views=4,
  camera_from=partial(jd.from_uniform, azimuth=(-math.pi, math.pi), elevation=(-.2, 1.5),
                      distance=(2.8, 3.3), fov=(.7, .7)),
  draw=jd.make_draw(t_min=lambda step: .02, t_max=lambda step: .98, shape=prior.latent))
gradient = jd.make_gradient(
  picture=jd.make_render_latents(scene=scene, render=render, regularize=lambda shown, step: 0.),
  estimator=estimator)
adam = optax.adam(.05, b2=.99, eps=1e-15)


@jax.jit
def step(i, params, opt):
  camera, draws, keys = sample(jax.random.fold_in(jax.random.key(1), i), jnp.arange(4), i)
  grads, info = gradient(params, prior, text, camera, draws, keys, i)
  updates, opt = adam.update(grads, opt)
  return optax.apply_updates(params, updates), opt, info


params = {'scene': scene.init(jax.random.key(0)), 'est': ()}
opt = adam.init(params)
for i in range(steps):
  params, opt, info = step(i, params, opt)
  if i % 20 == 0:
    print(f'step {i}: opacity {info["opacity"]:.2f}')

# The object: a mesh with colors.
code = scene.prepare(params['scene'], text)
of_points = jax.jit(jax.vmap(partial(scene.field, code)))
show = jax.jit(lambda camera: jd.render_image(
  jax.random.key(2), partial(scene.field, code), camera, size=64, samples=64, jitter=0.))
folder.mkdir(parents=True, exist_ok=True)
jd.write_mesh(lambda xyz: of_points(xyz)[0], lambda xyz: of_points(xyz)[1], show, folder)
print(folder / 'mesh.glb')
