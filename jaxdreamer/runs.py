"""A run read back: its scene alone to show it, with its prior only where a generator reads a
prompt; or all of its state, to go on with."""
import functools
import pathlib
from typing import Sequence

import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxdreamer import build, checkpoints, options, places, seeds, workdirs
from jaxdreamer.objects import Model
from jaxdreamer.training import Training
from jaxdreamer.types import Prior, TrainState


def restore(workdir: pathlib.Path, *, prior: str = '',
            tokenizers: Sequence[str] = ()) -> tuple[ConfigDict, Model, PyTree, int]:
  """(config, Model, the scene's parameters, step) of the run in `workdir` at its newest checkpoint,
  on one device. The prior is opened when a generator first reads a prompt: at `prior`, with
  `tokenizers`, where they are given, else where it was. ValueError where there is no checkpoint, or
  where other weights lie than the run was trained with."""
  config = options.expanded(read_config(workdir))
  scene = build.make_scene(config)
  with checkpoints.reader(workdir) as saved:
    found = checkpoints.restore_scene(saved, jax.eval_shape(scene.init, seeds.key(config.seed)))
  if not found:
    raise none_in(workdir)

  @functools.cache
  def reader() -> Prior:
    places.move(config, prior, tokenizers, known=workdirs.read_contents(workdir))
    return build.make_prior(config)
  embed = lambda prompt: build.embedder(config, reader())(prompt)
  return config, build.model(config, embed), *found


def restore_state(workdir: pathlib.Path) -> tuple[ConfigDict, Training, TrainState]:
  """All of the run in `workdir` at its newest checkpoint, on one device. ValueError where there is
  none."""
  config = read_config(workdir)
  config.mesh.data = 1
  training = build.training(config, build.make_mesh(config))
  with checkpoints.reader(workdir) as saved:
    return config, training, checkpoints.restore(saved, training.init(seeds.key(config.seed)))[0]


def read_config(workdir: pathlib.Path) -> ConfigDict:
  """The options of the run in `workdir`. ValueError where it has no checkpoint."""
  config = options.restored(workdir)
  if not workdirs.finished_steps(workdir):
    raise none_in(workdir)
  return config


def none_in(workdir: pathlib.Path) -> ValueError:
  """The error of a run without a checkpoint."""
  return ValueError(f'{workdir} holds no finished checkpoint: train it first')
