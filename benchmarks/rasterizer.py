"""The rasterizer: seconds of a picture and its gradient, and how true that gradient is:
python -m benchmarks.rasterizer [--quick]

A lumpy ball of about 10,000 faces, made by marching tetrahedra, drawn at 128 pixels. Its gradient
is held against central differences of smooth functionals of the picture, sums over pixels with
weights of low frequency: that is what a prior's residual, carried back through an encoder, asks
for. A single pixel of a mask is constant but for a step's width, so that a difference of it says
nothing. What moves are smooth deformations of the whole mesh, by a tenth of a pixel.
"""
import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp

from jaxdreamer import cameras
from jaxdreamer.meshes import drawing, tetrahedra
from jaxdreamer.scenes.dmtet import nodes

MODES, FUNCTIONALS = 24, 4


def lumpy_ball(resolution):
  """About ten faces a square of `resolution`: the Mesh of a ball with waves on it."""
  xyz = nodes(jnp.array([[-1.] * 3, [1.] * 3]), resolution)
  wave = .05 * jnp.sin(9. * xyz[..., 0]) * jnp.sin(7. * xyz[..., 1])
  sdf = jnp.sqrt(jnp.sum(xyz ** 2, -1)) - .6 + wave
  return jax.jit(functools.partial(tetrahedra.march, cubes=2 * resolution ** 2))(sdf, xyz)


def draw(mesh, camera, *, size):
  """The mesh in smooth colors over white."""
  return drawing.image(mesh, lambda xyz: .5 + .4 * jnp.sin(4. * xyz), camera, size=size,
                       background=lambda direction: jnp.ones(3),
                       shade=lambda albedo, normal, xyz: albedo)


def moved(mesh, amounts, key):
  """The mesh under deformations of the first MODES random waves, each by its amount."""
  k_wave, k_phase, k_direction = jax.random.split(key, 3)
  n = len(amounts)
  wave = 2. * jax.random.normal(k_wave, (n, 3))
  phase = 6.3 * jax.random.uniform(k_phase, (1, n))
  direction = jax.random.normal(k_direction, (n, 3))
  along = jnp.sin(jnp.matmul(mesh.vertices, wave.T, precision='highest') + phase) * amounts[None]
  return mesh._replace(vertices=mesh.vertices + jnp.matmul(along, direction, precision='highest'))


def smooth_weights(key, *, size, channels):
  """Waves of at most two periods a picture."""
  k_wave, k_phase = jax.random.split(key)
  place = (jnp.arange(size) + .5) / size
  at = jnp.stack(jnp.meshgrid(place, place, indexing='ij'), -1)
  wave = 6.3 * jax.random.uniform(k_wave, (2, channels), minval=-2., maxval=2.)
  phase = 6.3 * jax.random.uniform(k_phase, (1, 1, channels))
  return jnp.cos(jnp.matmul(at, wave, precision='highest') + phase)


def gradient_cosines(mesh, *, size, seed=0):
  """Cosine of the gradients of smooth functionals of the mask, and of the color, to the MODES, with
  central differences of a tenth of a pixel."""
  camera = cameras.orbital(.5, .4, 3., .7)
  k_modes, k_mask, k_color = jax.random.split(jax.random.key(seed), 3)

  def functionals(amounts):
    seen = draw(moved(mesh, amounts, k_modes), camera, size=size)
    weights = lambda key, n: jax.vmap(lambda k: smooth_weights(k, size=size, channels=n))(
      jax.random.split(key, FUNCTIONALS))
    return (jnp.mean(weights(k_mask, 1) * seen.opacity[None, ..., None], (1, 2, 3)),
            jnp.mean(weights(k_color, 3) * seen.rgb[None], (1, 2, 3)))
  step = .1 * 2. * jnp.tan(.35) * 3. / size
  found = jax.jit(jax.jacrev(functionals))(jnp.zeros(MODES))
  both = jax.jit(lambda a: jax.tree.map(lambda p, m: (p - m) / (2. * step),
                                        functionals(step * a), functionals(-step * a)))
  slopes = [both(one) for one in jnp.eye(MODES)]
  true = jax.tree.map(lambda *columns: jnp.stack(columns, -1), *slopes)
  cosine = lambda a, b: float(jnp.vdot(a, b) / jnp.sqrt(jnp.vdot(a, a) * jnp.vdot(b, b)))
  return tuple(map(cosine, found, true))


def seconds(mesh, *, size, rounds):
  """Median time of a picture and of the gradient of its color, mask and normals."""
  camera = cameras.orbital(.5, .4, 3., .7)

  @jax.jit
  def gradient(vertices, mesh):
    def loss(vertices):
      seen = draw(mesh._replace(vertices=vertices), camera, size=size)
      return (jnp.sum(seen.rgb ** 2) + jnp.sum(seen.opacity ** 2) + jnp.sum(seen.normal[..., 0]))
    return jax.grad(loss)(vertices)
  jax.block_until_ready(gradient(mesh.vertices, mesh))
  found = []
  for _ in range(rounds):
    begin = time.perf_counter()
    jax.block_until_ready(gradient(mesh.vertices, mesh))
    found.append(time.perf_counter() - begin)
  return statistics.median(found)


def measure(quick):
  """{'rasterizer_seconds', 'rasterizer_gradient_cosine'}: the lesser of mask's and color's."""
  mesh = lumpy_ball(16 if quick else 32)
  size = 64 if quick else 128
  return {'rasterizer_seconds': seconds(mesh, size=size, rounds=5 if quick else 20),
          'rasterizer_gradient_cosine': min(gradient_cosines(mesh, size=size))}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='2,500 faces at 64 pixels')
  for name, value in measure(parser.parse_args().quick).items():
    print(f'{name:28} {value:.4f}')


if __name__ == '__main__':
  main()
