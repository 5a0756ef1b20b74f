"""The loop: restore or begin, advance, watch, log, preview, save, stop when told to, and write the
outputs.

Alone in owning the clock, the files and the signals. A call of the training advances
steps_per_call steps; between two calls the loop reads the scalars, and nothing else crosses to the
host. A run that was stopped, killed or cut short goes on from its newest checkpoint when the same
command is given again, with the numbers of an unbroken run (on the same devices).

    workdir/metrics.jsonl     the numbers, a row each `log_every` steps: equal to an unbroken run's
    workdir/timing.jsonl      where this start's seconds went, at the same steps
    workdir/profile/          the trace of `profile_steps`
"""
import os
import pathlib
from contextlib import ExitStack, closing
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxdreamer import (
  build,
  checkpoints,
  checks,
  finishing,
  fitting,
  guard,
  layout,
  metrics,
  options,
  places,
  processes,
  profiling,
  restoring,
  seeds,
  start,
  workdirs,
)
from jaxdreamer.configs import base
from jaxdreamer.objects import Model
from jaxdreamer.processes import place
from jaxdreamer.signals import SIGNALS, stop_signals
from jaxdreamer.training import Training, compiled, crosses, state_shapes
from jaxdreamer.types import TrainState

DONE, OUT_OF_TIME = 'done', 'max_minutes'


class Outcome(NamedTuple):
  """How a run ended: its last step; `why` is 'done', 'max_minutes' or a signal's name; the outputs
  that failed, and why."""
  step: int
  why: str
  failed: dict[str, str]


def run(config: ConfigDict, workdir: str | os.PathLike, mesh: Mesh, *,
        command: str = '') -> Outcome:
  """Trains to config.steps, or as far as signals and config.max_minutes allow, and writes the
  outputs of the result.

  `command` is what the report says the run was started with. One process writes; all hold the
  state.
  """
  check(config)
  workdir = options.place(workdir)
  with ExitStack() as stack:
    with processes.together():
      stack.enter_context(workdirs.alone(workdir, new=True))
    try:
      return run_alone(config, workdir, mesh, command=command)
    except Exception as error:
      if not workdirs.is_full(error):
        raise
      steps = workdirs.finished_steps(workdir)
      raise ValueError(f'{workdir}: its disk is full, or a quota or limit reached; make room, and '
                       'the same command goes on from '
                       + (f'step {steps[-1]}' if steps else 'the start')) from None


def run_alone(config: ConfigDict, workdir: pathlib.Path, mesh: Mesh, *, command: str) -> Outcome:
  """`run`, in a workdir that no other process writes into."""
  clock, config = metrics.Clock(), places.with_kept_mesh(config, workdir, moved=True)
  with processes.together():
    workdirs.claim(workdir, config.to_dict(), contents=places.contents(options.expanded(config)),
                   read=options.saved, defaults=base.OPTIONS)
    places.keep_mesh(config, workdir)
  processes.check_shared(f'--workdir={workdir}', lambda: workdirs.seen(workdir))
  with clock('build'), processes.together():
    training = build.training(config, mesh, saved=workdirs.finished_steps(workdir))
    model = restoring.model(training) if restoring.is_one(config) else build.model(
      config, build.embedder(config, training.prior), build.phrases(config))

  progress = metrics.Progress(steps=config.steps, quiet=not processes.first())
  profiling.refuse_too_large('a picture', options.picture_bytes(config), jax.local_devices()[:1],
                             lambda: 'give a smaller config.eval.size or config.eval.samples, or '
                             'config.eval.chunk=4096')
  if late := options.outliving(config):
    progress.say(f'warning: {late}')
  with checkpoints.manager(workdir, keep=config.keep) as saved, processes.one_for_all():
    with clock('init'):
      shapes = state_shapes(seeds.key(config.seed), training, mesh)
      profiling.refuse_too_large('the state', layout.bytes_each(shapes), mesh.local_devices,
                                 lambda: f'config.scene.{config.scene.name} is too large')
      begin = partial(start.newest, config, training, mesh, saved, shapes, progress.say)
      went_back = guard.read(workdir, begun=saved.latest_step() is not None)
      state, running = begin(went_back)
    step, why = int(state.step), DONE
    if step:
      progress.say(f'{workdir}: going on from step {step}')
      preview(config, model, state, workdir, before=step - training.steps_per_call, step=step)
    if step < config.steps:
      checks.check_steps(step, config.steps, training.steps_per_call)
      training = training._replace(prior=place(training.prior, mesh))
      goes_on = partial(train, config, training, model, workdir=workdir, saved=saved, clock=clock,
                        progress=progress)
      state, why = goes_on(state, running)
      while why == guard.STUCK:
        went_back = start.go_back(config, training, state, went_back, workdir, saved,
                                  progress.say)
        state = None                             # its memory is the next one's
        state, why = goes_on(*begin(went_back))
    kept = saved.latest_step() or 0
  step, params = int(state.step), processes.on_one_device(state.params['scene'])

  failed = {}
  if why not in SIGNALS and processes.first():
    failed = finishing.finish(config, model, params, workdir, step=step, clock=clock,
                              say=progress.say, command=command, devices=mesh.devices.size)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('finished')
  progress.say(clock.summary())
  if why != DONE:
    progress.say(f'{why}: saved step {kept} of {config.steps} in {workdir}; the same command goes '
                 'on from there')
  return Outcome(step, why, failed)


def train(config: ConfigDict, training: Training, model: Model, state: TrainState, running: dict, *,
          workdir: pathlib.Path, saved: checkpoints.ocp.CheckpointManager, clock: metrics.Clock,
          progress: metrics.Progress) -> tuple[TrainState, str]:
  """Advances to config.steps. Returns the last state, which is saved unless it is STUCK, and why it
  is the last."""
  before = step = int(state.step)
  writes, why, skipped = processes.first(), '', 0
  collapsed = guard.Collapse(watched=options.may_collapse(config))
  with ExitStack() as stack:
    rows, timings = open_rows(stack, workdir, step, tensorboard=config.tensorboard)
    with clock('compile'):
      training = ready(config, training, state)
    steps, mesh = [step for _, step in training.stages], state.step.sharding.mesh
    there = max(profiling.bytes_of(s) - profiling.yet_to_take(s) for s in steps)
    profiling.refuse_too_large('a step', max(map(profiling.yet_to_take, steps)), mesh.local_devices,
                               partial(fitting.ways, config, mesh, training.prior, there=there))
    progress.say(f'compiled in {clock.seconds["compile"]:.1f} s; ' + '; then '.join(
      profiling.describe(s, training.steps_per_call) for _, s in training.stages))
    trace = stack.enter_context(profiling.tracer(config.profile_steps if writes else '',
                                                 workdir / 'profile'))
    caught = stack.enter_context(stop_signals())
    stack.enter_context(closing(progress))
    progress.start(step)
    calls = training.fit(state, steps=config.steps)
    while not why:
      trace(before)
      with clock('steps'):
        step, state, info = next(calls)
        info = {name: float(value) for name, value in jax.device_get(info).items()}
      running = metrics.add(running, info, training.steps_per_call)
      skipped = 0 if info['finite'] else skipped + training.steps_per_call
      stuck = skipped >= config.guard.skips
      late = 0 < 60 * config.max_minutes < clock.total()
      why = agree(DONE if step >= config.steps and not stuck else caught[0] if caught
                  else guard.STUCK if stuck else OUT_OF_TIME if late else '')
      if crosses(before, step, config.log_every) or why == DONE:
        row, running = metrics.means(running), {}
        progress.row(step, row)
        if said := collapsed(row):
          progress.say(f'warning: {said}')
        for sink in rows:
          sink.write(step, row)
        for sink in timings:
          sink.write(step, {'seconds': dict(clock.seconds), 'total': clock.total(),
                            'memory': metrics.memory()})
      # in a row of skipped steps none is good to go on from
      if why == DONE or not skipped and (crosses(before, step, config.checkpoint_every) or why):
        with clock('checkpoints'):
          checkpoints.save(saved, step, state, running)
      if why in ('', DONE):
        with clock('previews'):
          preview(config, model, state, workdir, before=before, step=step)
      before = step
    with clock('checkpoints'):
      saved.wait_until_finished()
  return state, why


def preview(config: ConfigDict, model: Model, state: TrainState, workdir: pathlib.Path, *,
            before: int, step: int):
  """The picture of a step whose turn it is, unless that lies there: of a run that ended after it
  saved the step it does not."""
  if crosses(before, step, config.preview_every):
    params = processes.on_one_device(state.params['scene'])
    if processes.first():
      finishing.preview(model, params, workdir, step=step)


def open_rows(stack: ExitStack, workdir: pathlib.Path, step: int, *,
              tensorboard: bool) -> tuple[list, list]:
  """What takes rows of metrics, and of timings: nothing but in the process that writes. What a run
  killed after `step` left is dropped."""
  if not processes.first():
    return [], []
  finishing.drop_previews(workdir, step)
  open_one = lambda kind, name: stack.enter_context(closing(kind(workdir / name, step=step)))
  rows, timings = ([open_one(metrics.Rows, name)] for name in ('metrics.jsonl', 'timing.jsonl'))
  if tensorboard:
    rows.append(open_one(metrics.TensorBoard, 'tensorboard'))
  return rows, timings


def ready(config: ConfigDict, training: Training, state: TrainState) -> Training:
  """`training` with those of its stages that are yet to come, compiled."""
  step = int(state.step)
  text = training.text(step)
  ends = [first for first, _ in training.stages[1:]] + [config.steps]
  return training._replace(stages=tuple(compiled([
    (first, advance.lower(state, training.prior, text))
    for (first, advance), end in zip(training.stages, ends)
    if step < end and first < config.steps])))


def check(config: ConfigDict):
  """Refuses, in one line, what can be refused before anything is built."""
  options.check(config)
  profiling.profile_range(config.profile_steps)


def agree(why: str) -> str:
  """The gravest reason to stop that any process has, so that all stop at the same step."""
  if jax.process_count() == 1:
    return why
  reasons = ('', OUT_OF_TIME, guard.STUCK, *SIGNALS, DONE)
  return reasons[int(np.max(multihost_utils.process_allgather(np.int32(reasons.index(why)))))]
