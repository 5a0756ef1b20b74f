"""Runs of several stages: what each one's config is, and how they follow one another.

    config.stages = ('nerf', 'geometry')
    config.stage = {'geometry': {'scene': {'name': 'dmtet'}, 'steps': 15000}}

A stage is a run of its own in workdir/NAME: its config is the whole one with what config.stage.NAME
changes, and its scene starts from that of the stage before. All are compiled before the first one
begins, so that none is refused hours later; the same command goes on at the stage, and the step, at
which it was stopped.
"""
import copy
import os
import pathlib
import time

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxdreamer import build, checks, fitting, loop, options, processes, profiling, seeds, workdirs
from jaxdreamer.configs import base
from jaxdreamer.loop import DONE, Outcome
from jaxdreamer.names import own, unknown
from jaxdreamer.outputs import overview
from jaxdreamer.training import compiled, lowered


def of(config: ConfigDict) -> dict[str, ConfigDict]:
  """{name: its config}, in order; {'': config} of a run without stages. ValueError, one line, for
  names and options that there are not."""
  names = tuple(config.stages)
  if not names and not config.stage:
    return {'': config}
  if not names or len(set(names)) != len(names):
    raise ValueError(f'config.stages={names}: takes names, each once, of {sorted(config.stage)} or '
                     'of stages that change nothing')
  idle = sorted(set(config.stage) - set(names))
  if idle and set(names[1:]) - set(config.stage):        # a slip in one of the two
    raise ValueError(f'config.stage.{idle[0]}: config.stages={names} names no such stage')
  return {name: changed(config, name) for name in names}


def changed(config: ConfigDict, name: str) -> ConfigDict:
  """The config of one stage."""
  stage = copy.deepcopy(config)        # references stay, such as of schedules to steps
  with stage.unlocked():
    stage.stages, stage.stage = (), ConfigDict()
  known = workdirs.flatten(base.OPTIONS)
  for option, value in workdirs.flatten(config.stage.get(name, ConfigDict()).to_dict()).items():
    if option not in known and not own(option, base.OPTIONS):
      raise ValueError(f'config.stage.{name}: {unknown(option, list(known))}')
    stage.update_from_flattened_dict({option: value})
  return options.with_own(stage)


def run(config: ConfigDict, workdir: pathlib.Path, mesh: Mesh, *, command: str = '') -> Outcome:
  """loop.run for each of config.stages that has not ended; the last one's Outcome. Without stages
  it is loop.run."""
  each = of(config)
  if '' in each:
    return loop.run(config, workdir, mesh, command=command)
  folders = {name: workdir / name for name in each}
  for before, name in zip(folders, list(folders)[1:]):
    each[name].start = os.fspath(folders[before])
  for stage in each.values():
    checks.check(stage, mesh)
  with processes.together():
    workdirs.claim(workdir, config.to_dict())
  to_come = [name for name in each if not has_ended(each[name], folders[name])] or [name]
  for name in to_come[1:]:
    say(f'stage {name!r}, to come: {foretold(each[name], mesh)}')
  for name in to_come:
    say(f'stage {name!r}, {list(each).index(name) + 1} of {len(each)}: {folders[name]}')
    outcome = loop.run(each[name], folders[name], mesh, command=command)
    if processes.first():
      overview.write(workdir, prompt=config.prompt, stages=list(each))
    if outcome.why != DONE:
      break
  return outcome


def say(line: str) -> None:
  """Prints it, in one of the processes."""
  if processes.first():
    print(line, flush=True)


def has_ended(config: ConfigDict, folder: pathlib.Path) -> bool:
  """Whether a stage has come to its last step, and its outputs are there."""
  steps = workdirs.finished_steps(folder)
  return bool(steps) and steps[-1] >= config.steps and (folder / 'report.html').exists()


def foretold(config: ConfigDict, mesh: Mesh) -> str:
  """What the steps of a stage to come take. They are compiled, and the cache of programs keeps
  them. ValueError where the memory is not there."""
  begin = time.monotonic()
  training = build.training(config, mesh)
  programs, _ = lowered(seeds.key(config.seed), training, mesh)
  made = [program for _, program in compiled(programs)]
  profiling.refuse_too_large('a step', max(map(profiling.bytes_of, made)), mesh.local_devices,
                             lambda: fitting.ways(config, mesh, training.prior))
  return f'compiled in {time.monotonic() - begin:.1f} s; ' + '; then '.join(
    profiling.describe(one, training.steps_per_call) for one in made)
