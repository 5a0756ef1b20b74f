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
import numpy as np
from jaxtyping import PyTree

from jaxdreamer import cameras, statistics
from jaxdreamer.objects import Model
from jaxdreamer.outputs import gallery, video
from jaxdreamer.scores import recall_at_1, silhouette_iou
from jaxdreamer.toybox import geometry, truth, world

VIEWS, ELEVATION = 8, .35              # radians


def make_rows(model: Model, params: PyTree, splits: dict[str, tuple[str, ...]], *,
              say: Callable = lambda text: None) -> Iterator[gallery.Row]:
  """Each prompt of {split: prompts}, generated and rendered from VIEWS sides, with its scores where
  all prompts are the toybox's."""
  every = [(split, prompt) for split, prompts in splits.items() for prompt in prompts]
  toys = all(world.names_a_toy(prompt) for _, prompt in every)
  score = scorer([prompt for _, prompt in every]) if toys else lambda *_: {}
  for index, (split, prompt) in enumerate(every):
    object = model.object(params, prompt)
    camera = cameras.orbit((VIEWS, ELEVATION), distance=3. * object.radius)
    views = video.render_views(object.over(0.), camera)
    yield gallery.Row(prompt, split, views.rgb + (1. - views.opacity)[..., None],
                      score(index, views, camera))
    say(f'{index + 1} of {len(every)} prompts')


def scorer(prompts: list[str]) -> Callable:
  """(index of a prompt, its Rendering [V, H, W] over black, cameras [V]) -> {score: value}."""
  items = jax.tree.map(lambda *leaves: np.stack(leaves), *map(world.parse, prompts))
  weights = geometry.shipped()
  fit = jax.jit(lambda x: geometry.caption_scores(weights, x, items))

  def score(index, views, camera):
    true = truth.views(prompts[index], camera, size=views.opacity.shape[-1], many=True)
    x = np.asarray(truth.over_gray(views.rgb, views.opacity), np.float32)
    return {'iou': silhouette_iou(views.opacity, true.mask),
            'color_error': truth.color_error(views.rgb, views.opacity, true),
            'recall_at_1': recall_at_1(np.asarray(fit(x)), index)}
  return score


def summary(rows: list[gallery.Row]) -> dict[str, dict[str, statistics.Interval]]:
  """{split: {score: mean over its prompts, with a bootstrap interval}}."""
  out = {}
  for split in dict.fromkeys(row.split for row in rows):
    own = [row.scores for row in rows if row.split == split]
    out[split] = {name: statistics.interval(statistics.clustered([scores[name] for scores in own]))
                  for name in own[0]}
  return out
