"""What a prompt-amortised generator makes of many prompts: pictures of each, and scores against the
exact toy.

    iou            silhouettes against the truth, mean of VIEWS views on a ring
    color_error    mean absolute difference of color where render and truth are both opaque
    recall_at_1    R@1: the share of views that the toybox's reader finds to fit this prompt best,
                   of all prompts of all splits (ScaleDreamer's R-precision, with a scorer trained
                   on renders alone)
"""
from typing import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxdreamer import statistics
from jaxdreamer.build import Job
from jaxdreamer.outputs import gallery, video
from jaxdreamer.toybox import geometry, truth, world

VIEWS, ELEVATION = 8, .35              # radians


def look(job: Job, params: PyTree, splits: dict[str, tuple[str, ...]], *,
         say: Callable = lambda text: None) -> Iterator[gallery.Row]:
  """Each prompt of {split: prompts}, generated and seen from VIEWS sides, with its scores where all
  prompts are the toybox's."""
  camera = video.rings((VIEWS, ELEVATION), distance=3. * job.radius)
  every = [prompt for prompts in splits.values() for prompt in prompts]
  score = scorer(every, camera, size=job.size) if all(map(world.names_a_toy,
                                                          every)) else lambda index, shown: {}
  index = 0
  for split, prompts in splits.items():
    for prompt in prompts:
      code = job.code(params, job.embed(prompt))
      shown = video.render_views(lambda one, code=code: job.render(code, one,
                                                                   np.zeros(3, np.float32)), camera)
      yield gallery.Row(prompt, split, shown.rgb + (1. - shown.opacity)[..., None],
                        score(index, shown))
      index += 1
      say(f'{index} of {len(every)} prompts')


def scorer(prompts: list[str], camera, *, size: int) -> Callable:
  """(index of a prompt, its Rendering [V, H, W] over black) -> {score: value}."""
  items = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(world.parse, prompts))
  weights = geometry.shipped()
  fit = jax.jit(lambda x: geometry.caption_scores(weights, jax.image.resize(
    x, (len(x), geometry.SIZE, geometry.SIZE, 3), 'linear'), items))

  def score(index, shown):
    true = jax.device_get(truth.views(prompts[index], camera, size=size))
    x = np.asarray(truth.over_gray(shown.rgb, shown.opacity), np.float32)
    return {'iou': truth.silhouette_iou(shown.opacity, true.mask),
            'color_error': float(truth.color_error(jnp.asarray(shown.rgb),
                                                   jnp.asarray(shown.opacity), true)),
            'recall_at_1': float(np.mean(np.asarray(fit(x)).argmax(1) == index))}
  return score


def summary(rows: list[gallery.Row]) -> dict[str, dict[str, statistics.Interval]]:
  """{split: {score: mean over its prompts, with a bootstrap interval}}."""
  out = {}
  for split in dict.fromkeys(row.split for row in rows):
    own = [row.scores for row in rows if row.split == split]
    out[split] = {name: statistics.interval(statistics.clustered([scores[name] for scores in own]))
                  for name in own[0]}
  return out
