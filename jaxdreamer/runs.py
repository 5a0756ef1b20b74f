"""A run read back to be shown: its scene alone, and its prior only where a prompt must be told to a
generator."""
import functools
import pathlib
from typing import Any, Sequence

import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxdreamer import build, checkpoints, options, places, seeds, showing


def restore(workdir: pathlib.Path, *, prior: str = '',
            tokenizers: Sequence[str] = ()) -> tuple[ConfigDict, build.Job, PyTree, int]:
  """(config, a Job that can show and nothing more, the scene's parameters, step) of the run in
  `workdir` at its newest checkpoint, on one device. The prior is opened when a generator is first
  told a prompt: at `prior`, with `tokenizers`, where they are given, else where it was. ValueError
  where there is no checkpoint, or where other weights lie than the run was trained with."""
  config = options.expanded(options.restored(workdir))
  if not checkpoints.finished_steps(workdir):
    raise ValueError(f'{workdir} holds no finished checkpoint: train it first')
  scene = build.make_scene(config)
  with checkpoints.reader(workdir) as saved:
    found = checkpoints.restore_scene(saved, jax.eval_shape(scene.init, seeds.key(config.seed)))
  if not found:
    raise ValueError(f'{workdir} holds no finished checkpoint: train it first')

  @functools.cache
  def teller() -> Any:
    places.move(config, prior, tokenizers, known=checkpoints.read_contents(workdir))
    return build.make_prior(config)
  reads = showing.reads_text(scene)
  told = lambda prompt: teller().embed(prompt, config.negative_prompt) if reads else None
  phrases = build.read_corpus(config.corpus.path) if config.corpus.path else (config.prompt,)
  job = build.Job(prompts=phrases, embed=told, init=None, stages=(),
                  steps_per_call=config.steps_per_call, prior=None, text=None, parts=None,
                  **build.shown(config, scene))
  return config, job, *found
