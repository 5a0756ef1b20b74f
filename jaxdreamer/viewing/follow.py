"""A workdir as the viewer reads it, while a run writes there and afterwards. Nothing is written."""
import math
import pathlib
from typing import NamedTuple, Sequence

import jax
from jaxtyping import PyTree

from jaxdreamer import guard, options, runs, workdirs
from jaxdreamer.objects import Model, Object
from jaxdreamer.types import Camera

CHUNK = 2 ** 14                          # rays rendered together, where the run does not say


class Run(NamedTuple):
  """What stays the same of a run, or of one of its stages, in `folder`."""
  folder: pathlib.Path
  config: object
  model: Model
  resolution: int                        # of its mesh


class State(NamedTuple):
  """A run at one checkpoint; `params` are the scene's."""
  run: Run
  params: PyTree
  step: int

  def object(self, prompt: str) -> Object:
    """What it has learned of a prompt; the run's own where that is ''."""
    return self.run.model.object(self.params, prompt or self.run.model.prompts[0])

  def cameras(self) -> Camera:
    """The [V] cameras of the step that follows."""
    went_back = guard.read(self.run.folder, begun=True)
    return jax.device_get(runs.cameras_at(self.run.config, self.step, went_back))


def steps_in(workdir: pathlib.Path) -> list[int]:
  """The steps of the checkpoints that there are, of the newest stage."""
  return workdirs.finished_steps(workdirs.newest_stage(workdir))


def chosen(steps: Sequence[int], wanted: int | None) -> int:
  """The newest of some ascending steps up to the one that is wanted, or else the first; None wants
  the newest."""
  return max((step for step in steps if wanted is None or step <= wanted), default=steps[0])


def spacing(steps: Sequence[int]) -> tuple[int, int, int]:
  """(first, last, greatest step of a slider that meets all) of ascending steps."""
  apart = [b - a for a, b in zip(steps, steps[1:])]
  return steps[0], steps[-1], max(math.gcd(*apart), 1)


def opened(workdir: pathlib.Path, *, prior: str = '', tokenizers: Sequence[str] = ()) -> Run:
  """The newest stage of the run in `workdir`; prior and tokenizers as runs.restore takes them."""
  folder = workdirs.newest_stage(workdir)
  config = options.expanded(runs.read_config(folder))
  config.eval.chunk = config.eval.chunk or CHUNK
  return Run(folder, config, runs.run_model(folder, config, prior, tokenizers),
             config.eval.mesh_resolution)


def state_at(run: Run, step: int) -> State:
  """The run at a checkpoint, or at one before it where that is gone or damaged."""
  return State(run, *runs.scene_at(run.folder, run.config, last=step))
