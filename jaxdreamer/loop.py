"""The loop: restore or begin, advance, watch, log, preview, save, stop when told to, and write the outputs.

Alone in owning the clock, the files and the signals. A call of job.step advances job.stride steps; between two calls the
loop reads the scalars, and nothing else crosses to the host. A run that was stopped, killed or cut short goes on from its
newest checkpoint when the same command is given again, with the numbers of an unbroken run (on the same devices).

    workdir/metrics.jsonl     the numbers, a row each `log_every` steps: equal to an unbroken run's
    workdir/timing.jsonl      where this start's seconds went, at the same steps
    workdir/previews/         four views each `preview_every` steps
    workdir/profile/          the trace of `profile_steps`
"""
from contextlib import contextmanager
import math
import os
import pathlib
import signal
import threading
import traceback
from typing import Callable, NamedTuple

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from ml_collections import ConfigDict
import numpy as np

from jaxdreamer import build, cameras, checkpoints, metrics
from jaxdreamer.types import TrainState

SIGNALS = tuple(name for name in ('SIGTERM', 'SIGINT', 'SIGUSR1') if hasattr(signal, name))
DONE, OUT_OF_TIME = 'done', 'max_minutes'


class Outcome(NamedTuple):
  """How a run ended: its last step; `why` is 'done', 'max_minutes' or a signal's name; the outputs that failed, and why."""
  step: int
  why: str
  failed: dict[str, str]


def run(config: ConfigDict, workdir: str | os.PathLike, mesh: Mesh) -> Outcome:
  """Trains to config.steps, or as far as signals and config.max_minutes allow, and writes the outputs of the result."""
  clock = metrics.Clock()
  workdir = pathlib.Path(workdir)
  check(config)
  checkpoints.claim(workdir, config.to_dict())
  with clock('build'):
    job = build.job(config, mesh)

  progress = metrics.Progress(step=0, steps=config.steps)
  with checkpoints.manager(workdir, keep=config.keep) as saved:
    with clock('init'):
      state = place(job.init(jax.random.key(config.seed)), mesh)
      state, running = checkpoints.restore(saved, state, warn=progress.say) or (state, {})
    step = int(state.step)
    if step:
      progress.say(f'{workdir}: going on from step {step}')
    why = DONE
    if step < config.steps:
      check_stride(step, config.steps, job.stride)
      state, why = train(config, job, state, running, workdir=workdir, saved=saved, clock=clock, progress=progress)
  step = int(state.step)
  params = on_one_device(state.params['scene'])

  failed = {}
  if why not in SIGNALS and jax.process_index() == 0:
    with clock('outputs'):
      failed = finish(config, job, params, workdir, step=step, say=progress.say)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('finished')
  progress.say(clock.summary())
  if why != DONE:
    progress.say(f'{why}: saved step {step} of {config.steps} in {workdir}; the same command goes on from there')
  return Outcome(step, why, failed)


def train(config: ConfigDict, job: 'build.Job', state: TrainState, running: dict, *, workdir: pathlib.Path, saved,
          clock: metrics.Clock, progress: metrics.Progress) -> tuple[TrainState, str]:
  """Advances to config.steps. Returns the last state, which is saved, and why it is the last."""
  step = int(state.step)
  drop_previews(workdir, step)
  sinks = [metrics.Rows(workdir / 'metrics.jsonl', step=step)] if jax.process_index() == 0 else []
  if sinks and config.tensorboard:
    sinks.append(metrics.TensorBoard(workdir / 'tensorboard', step=step))
  timing = metrics.Rows(workdir / 'timing.jsonl', step=step) if sinks else None

  with clock('compile'):
    advance = job.step.lower(state, job.prior).compile()
  progress.say(f'a call of {job.stride} steps: {describe(advance)}; compiled in {clock.seconds["compile"]:.1f} s')
  trace = tracer(config.profile_steps, workdir / 'profile')
  progress.start(step)
  why = ''
  with stop_signals() as caught:
    while step < config.steps and not why:
      before, step = step, step + job.stride
      trace(before)
      with clock('steps'):
        state, info = advance(state, job.prior)
        info = {name: float(value) for name, value in jax.device_get(info).items()}
      refuse_non_finite(info, before, step, saved.latest_step())
      info.pop('finite', None)
      running = metrics.add(running, info, job.stride)
      why = agree(caught[0] if caught else OUT_OF_TIME if 0 < config.max_minutes < clock.total() / 60 else '')
      last = step >= config.steps
      passed = lambda every, before=before, step=step: every > 0 and step // every > before // every

      if passed(config.log_every) or last:
        row, running = metrics.means(running), {}
        for sink in sinks:
          sink.write(step, row)
        if timing:
          timing.write(step, {'seconds': dict(clock.seconds), 'total': clock.total(), 'memory': metrics.memory()})
        progress.row(step, row)
      if passed(config.checkpoint_every) or last or why:
        with clock('checkpoints'):
          checkpoints.save(saved, step, state, running)
      if passed(config.preview_every) and not why:
        with clock('previews'):
          params = on_one_device(state.params['scene'])
          if sinks:
            preview(job.render, params, workdir / 'previews' / f'step_{step:06}.png')
    trace(math.inf)
    with clock('checkpoints'):
      saved.wait_until_finished()
  progress.close()
  for sink in sinks + [timing] * bool(sinks):
    sink.close()
  return state, DONE if step >= config.steps else why
