"""Where a run begins that starts from the scene of another."""
import dataclasses
import re

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxdreamer import build, checks, options, processes, runs, seeds, workdirs
from jaxdreamer.optim import name
from jaxdreamer.training import Training
from jaxdreamer.types import TrainState


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
