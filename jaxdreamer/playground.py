r"""python -m jaxdreamer.playground --config=configs/image2d.py \
    --config.prompt="a red car" [--methods="sds; vsd" --every=100]

Each method distils the prior into a picture of its own, and every `--every` steps its gradient's
variance is measured where it then is (SteinDreamer, Fig. 2), with its distance from the truth.
Writes playground.json, curves.png and pictures.png.
"""
import json
import pathlib
import time
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from jaxdreamer import (
  build_sample,
  cameras,
  cli,
  evaluate,
  method_texts,
  seeds,
  statistics,
  variance_lab,
)
from jaxdreamer.options import place

METHODS = ('sds; ssd; csd; vsd; asd; sds sampling.design=stratified; sds '
           'sampling.design=stratified sampling.draws=4')


def follow(key, subject: variance_lab.Method, *, steps: int, every: int, repeats: int):
  """(step, picture [H, W, 3], gradients [R P]) of one method's own run, every `every` steps and at
  its start."""
  training, text = subject.training, subject.training.text(0)
  begin = training.init(seeds.key(subject.config.seed))
  scene = jax.jit(lambda params: params['field']['image'])
  for step, state, _ in chain([(0, begin, {})], training.fit(begin, steps=steps)):
    if step % every == 0:
      gradients = [subject.whole(k, state.params, training.prior, text, state.step)
                   for k in jax.random.split(key, repeats)]
      yield step, np.asarray(jax.nn.sigmoid(scene(state.params['scene']))), np.stack(gradients)


def distance(picture, truth, mask) -> float:
  """Root mean square error of color on the object."""
  return float(np.sqrt(np.sum(mask[..., None] * (picture - truth) ** 2) / (3. * mask.sum())))


def spread(gradients) -> dict:
  """Variance of a step's gradient, and that over its squared mean."""
  gram = gradients.astype(np.float64) @ gradients.T.astype(np.float64)
  n = len(gram)
  return {'variance': statistics.bootstrap(lambda w: statistics.variance(gram, w), n)._asdict(),
          'relative_variance': statistics.bootstrap(lambda w: statistics.relative_variance(gram, w),
                                                    n)._asdict()}


def plot(runs: dict[str, list[dict]], path: pathlib.Path):
  """Draws variance and distance of each method against the step into `path`."""
  figure = Figure(figsize=(15., 4.5), layout='constrained')
  for axes, (name, of) in zip(figure.subplots(1, 3), (
      ('variance of a step', 'variance'), ('variance / |mean|^2', 'relative_variance'),
      ('distance from the truth', 'distance'))):
    for method, rows in runs.items():
      x = [row['step'] for row in rows]
      if of == 'distance':
        axes.plot(x, [row[of] for row in rows], label=method)
      else:
        line, = axes.plot(x, [row[of]['mean'] for row in rows], label=method)
        axes.fill_between(x, *([row[of][side] for row in rows] for side in ('lower', 'upper')),
                          color=line.get_color(), alpha=.15)
        axes.set_yscale('log')
    axes.set_xlabel('step')
    axes.set_title(name)
  axes.legend(fontsize=8)
  figure.savefig(path, dpi=120)


def gallery(runs: dict[str, list[dict]], pictures: dict[str, list], truth, path: pathlib.Path):
  """A row a method, a column a measured step, and last the truth."""
  columns = max(map(len, pictures.values())) + 1
  figure = Figure(figsize=(1.3 * columns + 1.5, 1.3 * len(pictures) + .2), layout='constrained')
  for method, axes in zip(pictures, figure.subplots(len(pictures), columns, squeeze=False)):
    names = [*(f'step {row["step"]}' for row in runs[method]), 'truth']
    for one, picture, name in zip(axes, [*pictures[method], truth], names):
      one.imshow(np.clip(picture, 0., 1.), interpolation='nearest')
      one.set_title(name if method == next(iter(pictures)) else '', fontsize=8)
      one.set(xticks=[], yticks=[])
    axes[0].set_ylabel(method_texts.label(method, between='\n'), rotation=0, ha='right',
                       va='center', fontsize=8)
  figure.savefig(path, dpi=100)


def main() -> int:
  """Runs each of --methods on a picture and writes curves and pictures; the exit status."""
  options, config = flags.FLAGS, flags.FLAGS.config
  if config is None or config.scene.name != 'image':
    raise ValueError('--config: give one whose scene is a picture: configs/image2d.py')
  cli.compile_cache()
  folder = place(options.out)
  folder.mkdir(parents=True, exist_ok=True)
  camera = jax.tree.map(lambda a: a[None], cameras.from_uniform(jnp.full(4, .5),
                                                                **build_sample.camera_ranges(
                                                                    config.cameras)))
  truth, mask = (np.asarray(a[0]) for a in evaluate.true_pictures(config.prompt, camera,
                                                                  size=config.scene.image.size))
  start, runs, pictures = time.time(), {}, {}
  for method in (m.strip() for m in options.methods.split(';') if m.strip()):
    subject = variance_lab.subject(config, method, times=2, noises=2)
    runs[method], pictures[method] = [], []
    for step, picture, gradients in follow(seeds.key(options.seed), subject, steps=config.steps,
                                           every=options.every,
                                           repeats=options.repeats):
      runs[method].append({'step': step, 'distance': distance(picture, truth, mask),
                           **spread(gradients)})
      pictures[method].append(picture)
      print(f'{time.time() - start:6.0f} s  {method}: step {step}/{config.steps}  distance '
            f'{runs[method][-1]["distance"]:.3f}'
            f'  variance {runs[method][-1]["variance"]["mean"]:.3g}', flush=True)
  gallery(runs, pictures, truth, folder / 'pictures.png')
  plot(runs, folder / 'curves.png')
  (folder / 'playground.json').write_text(
      json.dumps({'prompt': config.prompt, 'repeats': options.repeats, 'runs': runs}, indent=1)
                                          + '\n')
  print(folder / 'curves.png', folder / 'pictures.png')
  return 0


if __name__ == '__main__':
  cli.config_flag()
  flags.DEFINE_string('methods', METHODS, 'What runs, separated by `;`.')
  flags.DEFINE_integer('every', 100, 'Steps between measurements.', lower_bound=1)
  flags.DEFINE_integer('repeats', 32, 'Gradients that a measurement draws.', lower_bound=3)
  flags.DEFINE_integer('seed', 0, 'Of those.', lower_bound=0, upper_bound=seeds.MOST)
  flags.DEFINE_string('out', 'runs/playground', 'Where to write.')
  cli.run(main)
