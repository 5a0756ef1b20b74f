"""Checkpoints: the newest TrainStates of a run.

    workdir/checkpoints/000120/    TrainState (typed keys included) and the running means of the
                                   metrics at step 120

Orbax writes in the background and commits a step by renaming its folder, so a process killed at any
moment leaves the step before as the newest. Frozen weights are never saved. A state restores onto
any number of devices. What else lies in a workdir, workdirs.py says.
"""
import pathlib
import warnings
from typing import Callable

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from jaxdreamer import workdirs


def manager(workdir: pathlib.Path, *, keep: int = 3) -> ocp.CheckpointManager:
  """Opens the checkpoints of a workdir, of which the newest `keep` stay; leftovers of killed saves
  are removed. Close it."""
  options = ocp.CheckpointManagerOptions(
      preservation_policy=ocp.checkpoint_managers.LatestN(keep), cleanup_tmp_directories=True,
      step_format_fixed_length=6)
  return ocp.CheckpointManager(workdir.resolve() / workdirs.FOLDER, options=options)


def reader(workdir: pathlib.Path) -> ocp.CheckpointManager:
  """Opens the checkpoints of a workdir to read them: a run that saves there now loses nothing.
  Close it."""
  options = ocp.CheckpointManagerOptions(read_only=True, create=False, save_interval_steps=0,
                                         step_format_fixed_length=6)
  return ocp.CheckpointManager(workdir.resolve() / workdirs.FOLDER, options=options)


def save(checkpoints: ocp.CheckpointManager, step: int, state: PyTree, running: dict):
  """Starts to save and returns once the arrays are copied; an error of the previous save surfaces
  here or in close()."""
  checkpoints.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state),
                                                 running=ocp.args.JsonSave(running)))


def drop(checkpoints: ocp.CheckpointManager, first: int):
  """Removes the steps from `first` on."""
  for step in checkpoints.all_steps():
    if step >= first:
      checkpoints.delete(step)


def _newest(checkpoints, args, *, last=None):
  """(what the newest readable step holds, that step, {newer step: why it is not readable}); None, 0
  where none is. Steps after `last` do not count."""
  damaged = {}
  for step in sorted(checkpoints.all_steps(), reverse=True):
    if last is not None and step > last:
      continue
    try:
      return checkpoints.restore(step, args=args), step, damaged
    except Exception as error:                     # tensorstore raises bare Exceptions
      damaged[step] = ' '.join(str(error).split())[:160]
  return None, 0, damaged


def restore(checkpoints: ocp.CheckpointManager, like: PyTree, *,
            warn: Callable = warnings.warn) -> tuple[PyTree, dict] | None:
  """The newest readable (state, running), with the shapes and shardings of `like`; None where
  nothing was saved.

  A damaged step is passed over with a warning, and removed once an older one has proved readable;
  but not by a reader.
  """
  as_target = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
  args = ocp.args.Composite(state=ocp.args.StandardRestore(jax.tree.map(as_target, like)),
                            running=ocp.args.JsonRestore())
  found, at, damaged = _newest(checkpoints, args)
  if found:
    for bad, why in damaged.items():
      warn(f'checkpoint {bad} in {checkpoints.directory} is damaged, going on from {at} ({why})')
      checkpoints.delete(bad)
    return found['state'], found['running']
  if damaged:
    step, why = next(iter(damaged.items()))
    raise ValueError(f'no checkpoint in {checkpoints.directory} fits this run; {step}: {why}. Give '
                     'another --workdir')
  return None


def restore_scene(checkpoints: ocp.CheckpointManager, like: PyTree, *, last: int | None = None,
                  warn: Callable = warnings.warn) -> tuple[PyTree, int] | None:
  """The newest readable (scene's parameters, shaped as `like`, step), whatever else the state
  holds, of the steps up to `last`; None where nothing was saved.
  They come to the first local device."""
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
                        {'step': jax.ShapeDtypeStruct((), 'int32'), 'params': {'scene': like}})
  args = ocp.args.Composite(state=ocp.args.PyTreeRestore(
    target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True))
  found, at, damaged = _newest(checkpoints, args, last=last)
  if found:
    for bad, why in damaged.items():
      warn(f'checkpoint {bad} in {checkpoints.directory} is damaged, {at} is taken ({why})')
    return found['state']['params']['scene'], int(found['state']['step'])
  if damaged:
    step, why = next(iter(damaged.items()))
    raise ValueError(f'no checkpoint in {checkpoints.directory} holds the scene of this run; '
                     f'{step}: {why}')
  return None
