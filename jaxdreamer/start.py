"""Where a run begins: at its newest checkpoint, at one that it goes back to, or anew, from the
scene of another where it is told one."""
import dataclasses
import pathlib
import re
from typing import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxdreamer import build, checkpoints, checks, guard, options, processes, runs, seeds, workdirs
from jaxdreamer.layout import name
from jaxdreamer.training import Training, at_step
from jaxdreamer.types import TrainState


def newest(config: ConfigDict, training: Training, mesh: Mesh,
           saved: checkpoints.ocp.CheckpointManager, shapes: TrainState, say: Callable,
           went_back: tuple[int, ...]) -> tuple[TrainState, dict]:
  """The state and running means to go on from: of the newest checkpoint, or the first ones."""
  found = checkpoints.restore(saved, shapes, warn=say)
  state, running = found or (first(config, training, mesh), {})
  return guard.again(state, went_back), running


def go_back(config: ConfigDict, training: Training, state: TrainState, went_back: tuple[int, ...],
            workdir: pathlib.Path, saved: checkpoints.ocp.CheckpointManager,
            say: Callable) -> tuple[int, ...]:
  """`went_back` and the step that a run goes back to which is stuck in `state`: that of the newest
  checkpoint which a finite step followed. FloatingPointError where it did so often enough."""
  stride, step = training.steps_per_call, int(state.step)
  skipped = -(-config.guard.skips // stride) * stride
  checkpoints.drop(saved, step - skipped)
  good = saved.latest_step() or 0
  if (times := went_back.count(good)) >= config.guard.rollbacks:
    last = dataclasses.replace(state, step=state.step - 1)
    _, seen = at_step(training.looks, step - 1)(last, training.prior, training.text(step - 1))
    raise FloatingPointError(guard.gave_up(guard.first_bad(jax.device_get(seen)), step,
                                           skipped=skipped, times=times, good=good))
  went_back += good,
  if processes.first():
    guard.write(workdir, went_back)
  say(f'warning: steps {step - skipped + 1} to {step} were not finite and were skipped; back to '
      f'step {good} with fresh noise, {times + 1} of {config.guard.rollbacks}')
  return went_back


def first(config: ConfigDict, training: Training, mesh: Mesh) -> TrainState:
  """The state that a run begins with, on all of the mesh. What is read for it, a run that goes on
  needs no more."""
  checks.check_files(config)
  return begun(config, processes.place(training.init(seeds.key(config.seed)), mesh))


def begun(config: ConfigDict, state: TrainState) -> TrainState:
  """The first state of a run, its scene started from that of config.start, if any: what the scene
  can `adopt` of one of another kind, and then all parameters that both have, of one shape, and
  whose names config.inherit matches; a texture has those of the field that it is part of no more.
  ValueError where that is nothing."""
  if not config.start:
    return state
  before = runs.restore(workdirs.newest_stage(options.place(config.start)))
  scene, own = build.make_scene(config), state.params['scene']
  params, adopted = own, False
  if scene.adopt and before.config.scene.name != config.scene.name:
    params = scene.adopt(own, before.model.object(before.params, before.model.prompts[0]))
    adopted = True
  params, taken = inherited(params, before.params, config.inherit)
  if not (adopted or taken):
    raise ValueError(f'config.start={config.start!r}: config.scene.name={config.scene.name!r} can '
                     f'take over nothing of its scene, {before.config.scene.name!r}, by '
                     f'config.inherit={tuple(config.inherit)}')
  placed = jax.tree.map(lambda new, old: jax.device_put(jnp.asarray(new, old.dtype), old.sharding),
                        params, own)
  return dataclasses.replace(state, params=state.params | {'scene': placed})


def inherited(params: PyTree, before: PyTree, patterns: tuple[str, ...]) -> tuple[PyTree, int]:
  """`params` with those leaves of `before` that have their name, which a pattern matches, and their
  shape; and how many they are. field/texture/A is field/A where there is no such texture yet."""
  there = {name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(before)[0]}
  taken = []
  def choose(path, leaf):
    at = name(path)
    found = there.get(at, there.get(at.replace('/texture/', '/', 1)))
    if (found is None or found.shape != leaf.shape
        or not any(re.fullmatch(p, f'scene/{at}') for p in patterns)):
      return leaf
    taken.append(at)
    return found
  return jax.tree_util.tree_map_with_path(choose, params), len(taken)
