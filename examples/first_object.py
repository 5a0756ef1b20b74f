"""A red cube in 60 steps: text to 3D through the public API, with no config.

  python examples/first_object.py
"""
import math
import pathlib
from functools import partial

import jax
import optax

import jaxdreamer as jd

prompt, steps, folder = 'a red cube', 60, pathlib.Path('runs/first_object')

# The parts: a frozen diffusion model and what it makes of the prompt, a scene, and an estimator.
prior, scene, estimator = jd.toybox_prior(), jd.voxels(), jd.sds(guidance=3.)
text = prior.embed(prompt)


# A render: the scene as one camera sees it, over a color of its own.
def render(code, camera, key, step):
  color = jax.random.uniform(jax.random.fold_in(key, 1), (3,))
  return jd.render_image(key, partial(scene.field, code), camera, size=prior.image_size,
                         samples=16, fine=16, background=lambda direction: color)


# A step: four views and their noise, the residual pulled back to the scene, Adam.
sample = jd.make_sample(
  design=jd.stratified, views=4, draw=jd.make_draw(noise=prior.schedule, shape=prior.latent),
  camera_from=partial(jd.from_uniform, azimuth=(-math.pi, math.pi), elevation=(-.2, 1.5),
                      distance=(2.8, 3.3), fov=(.7, .7)))
gradient = jd.make_gradient(estimator=estimator,
                            render_latents=jd.make_render_latents(scene=scene, render=render))
adam = optax.adam(.05, b2=.99, eps=1e-15)
step = jd.single_device(jd.make_local_step(sample=sample, gradient=gradient, tx=adam), views=4)

# The run: the state is all that changes.
state = jd.first_state(jax.random.key(0), scene=scene, estimator=estimator, prior=prior, tx=adam)
for i in range(steps):
  state, info = step(state, prior, text)
  if i % 20 == 0:
    print(f'step {i}: opacity {info["opacity"]:.2f}')

# The object: a mesh with colors.
model = jd.model(jax.random.key(1), scene, prompts=(prompt,), embed=prior.embed, step=steps)
folder.mkdir(parents=True, exist_ok=True)
jd.write_mesh(model.object(state.params['scene'], prompt), folder)
print(folder / 'mesh.glb')
