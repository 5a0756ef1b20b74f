"""What asking fewer rays saves and costs:   python -m benchmarks.rays [--quick]

Renders of configs/dreamfusion_sd.py, 64 pixels of its hash grid at full size, around toys of the
toybox: their density and colors stand in the grid's place, which is asked all the same. Each of
WAYS draws a picture and its gradient, by turns in random order: seconds of the first way over
another's, the median of pairs with its interval. And each draws all toys from all sides: decibels
against REFERENCE samples of a ray, and the share of rays that were left out though they meet
something. Writes benchmarks/results/rays.json.
"""
import argparse
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results
from jaxdreamer import build, cameras, profiling, scores, statistics
from jaxdreamer.configs import dreamfusion_sd
from jaxdreamer.toybox import truth

PROPOSED = {'samples': 64, 'fine': 64}
WAYS = {'64 propose 64': PROPOSED,
        'of 3/4 of the rays': PROPOSED | {'room': .75},
        'of 1/2': PROPOSED | {'room': .5},
        'of 1/4': PROPOSED | {'room': .25},
        '256, none proposed': {'samples': 256, 'fine': 0}}
TOYS = ('a red car', 'a yellow chair', 'a snowman with a blue hat')
REFERENCE = 2048
SHARP, DENSE = .004, 400.                # of a toy: the width of its surface, and its density
SHARE = 1e-6                             # of what is seen, that is the hash grid's


def scene_of(config, toy):
  """The config's scene, with a toy in the place of what its grid would have learned."""
  shape = truth.shape(toy)
  scene = build.make_scene(config)

  def field(code, xyz):
    density, features = scene.field(code, xyz)
    solid = DENSE * jax.nn.sigmoid(-shape.distance(xyz[None])[0] / SHARP)
    return solid + SHARE * density, shape.color(xyz[None])[0] + SHARE * features
  return scene._replace(field=field)


def config_of(way, *, levels):
  """dreamfusion_sd's, with the options of one of WAYS and a hash grid of so many levels."""
  config = dreamfusion_sd.get_config()
  config.scene.hashgrid.levels = levels
  config.render.update({'background': 'white', 'shaded': (0.,)} | way)
  return config


def drawn(way, *, size, levels, toy):
  """(params, camera, key) -> the Rendering of a toy that one of WAYS makes."""
  config = config_of(way, levels=levels)
  scene = scene_of(config, toy)
  draw = build.make_render(config, scene)
  return lambda params, camera, key: draw(size, scene.prepare(params, None), camera, key, 0)


def gradient(draw):
  """(params, camera, key) -> the gradient of a sum over a picture."""
  def loss(params, camera, key):
    out = draw(params, camera, key)
    return jnp.sum(out.rgb ** 2) + jnp.sum(out.orientation)
  return jax.grad(loss)


def sides(n):
  """Cameras as the config's, around the object."""
  return [cameras.orbital(2. * np.pi * i / n, .3, 1.75, .96) for i in range(n)]


def speeds(params, *, repeats, **sizes):
  """{way: [seconds]} of rounds, each way once in each, in random order."""
  args = params, sides(8)[1], jax.random.key(0)
  runs = {name: jax.jit(gradient(drawn(way, toy=TOYS[0], **sizes))).lower(*args).compile()
          for name, way in WAYS.items()}
  def turn(run):
    jax.block_until_ready(run(*args))                  # the first call of each does not count
    return lambda: jax.block_until_ready(run(*args))
  return profiling.by_turns(jax.random.key(1), {name: turn(run) for name, run in runs.items()},
                            rounds=repeats)


def qualities(params, *, toys, views, reference, **sizes):
  """{way: ([decibels], [share of rays without room])} over toys and views."""
  found = {name: ([], []) for name in WAYS}
  for toy in toys:
    best = jax.jit(drawn({'samples': reference, 'fine': 0, 'chunk': 256}, toy=toy, **sizes))
    shots = [(camera, np.asarray(best(params, camera, jax.random.key(9)).rgb))
             for camera in sides(views)]
    for name, way in WAYS.items():
      draw = jax.jit(drawn(way, toy=toy, **sizes))
      for i, (camera, truly) in enumerate(shots):
        out = draw(params, camera, jax.random.key(i))
        found[name][0].append(scores.psnr(np.asarray(out.rgb), truly))
        lost = 0. if out.dropped is None else float(out.dropped)
        found[name][1].append(lost / truly[..., 0].size)
  return found


def row(name, seconds, base, quality):
  """What is known of a way."""
  ratios = np.array(base) / np.array(seconds)
  middle = statistics.bootstrap(partial(statistics.middle, ratios), len(ratios))
  decibels, lost = quality
  return {'way': name, 'seconds': float(np.median(seconds)), 'times_as_fast': middle.mean,
          'lower': middle.lower, 'upper': middle.upper, 'psnr': float(np.mean(decibels)),
          'least_psnr': float(np.min(decibels)), 'no_room': float(np.mean(lost)),
          'most_no_room': float(np.max(lost))}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='small pictures, once; writes nothing')
  quick = parser.parse_args().quick
  sizes = {'size': 8, 'levels': 2} if quick else {'size': 64, 'levels': 16}
  scene = build.make_scene(config_of({}, levels=sizes['levels']))
  params = jax.jit(scene.init)(jax.random.key(0))
  seconds = speeds(params, repeats=2 if quick else 15, **sizes)
  quality = qualities(params, toys=TOYS[:1] if quick else TOYS, views=1 if quick else 4,
                      reference=256 if quick else REFERENCE, **sizes)
  base = next(iter(WAYS))
  rows = [row(name, seconds[name], seconds[base], quality[name]) for name in WAYS]
  print(json.dumps(rows, indent=1))
  if not quick:
    print(results.write('rays', {'rows': rows}, 'python -m benchmarks.rays'))


if __name__ == '__main__':
  main()
