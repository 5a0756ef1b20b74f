"""The loop: restore or begin, advance, watch, log, preview, save, stop when told to, and write the
outputs.

Alone in owning the clock, the files and the signals. A call of job.step advances job.steps_per_call
steps; between two calls the loop reads the scalars, and nothing else crosses to the host. A run
that was stopped, killed or cut short goes on from its newest checkpoint when the same command is
given again, with the numbers of an unbroken run (on the same devices).

    workdir/metrics.jsonl     the numbers, a row each `log_every` steps: equal to an unbroken run's
    workdir/timing.jsonl      where this start's seconds went, at the same steps
    workdir/previews/         four views each `preview_every` steps
    workdir/profile/          the trace of `profile_steps`
"""
import math
import os
import pathlib
import re
import signal
import threading
import traceback
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Callable, Collection, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxdreamer import build, cameras, checkpoints, metrics, options, places, processes, seeds
from jaxdreamer.configs import base
from jaxdreamer.processes import place
from jaxdreamer.types import TrainState

SIGNALS = tuple(name for name in ('SIGTERM', 'SIGINT', 'SIGUSR1') if hasattr(signal, name))
DONE, OUT_OF_TIME = 'done', 'max_minutes'
PREVIEWED, SHOWN = 4, 48               # prompts of a corpus in a preview, in the gallery
OUTPUTS = ('gallery.html', 'turntable.*', 'mesh.*', 'scores.json', 'report.*', 'failed.txt')


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
      stack.enter_context(checkpoints.alone(workdir, new=True))
    try:
      return run_alone(config, workdir, mesh, command=command)
    except Exception as error:
      if not checkpoints.is_full(error):
        raise
      steps = checkpoints.finished_steps(workdir)
      raise ValueError(f'{workdir}: its disk is full, or a quota or limit reached; make room, and '
                       'the same command goes on from '
                       + (f'step {steps[-1]}' if steps else 'the start')) from None


def run_alone(config: ConfigDict, workdir: pathlib.Path, mesh: Mesh, *, command: str) -> Outcome:
  """`run`, in a workdir that no other process writes into."""
  clock = metrics.Clock()
  with processes.together():
    checkpoints.claim(workdir, config.to_dict(), contents=places.contents(options.expanded(config)),
                      read=options.saved, defaults=base.OPTIONS)
  processes.check_shared(f'--workdir={workdir}', lambda: checkpoints.seen(workdir))
  with clock('build'), processes.together():
    job = build.job(config, mesh)

  progress = metrics.Progress(steps=config.steps, quiet=not processes.first())
  refuse_too_large('a picture', options.picture_bytes(config), jax.local_devices()[:1],
                   lambda: 'give a smaller config.eval.size or config.eval.samples, or '
                   'config.eval.chunk=4096')
  if late := options.outliving(config):
    progress.say(f'warning: {late}')
  with checkpoints.manager(workdir, keep=config.keep) as saved, processes.one_for_all():
    with clock('init'):
      shapes = jax.eval_shape(job.init, seeds.key(config.seed))
      refuse_too_large('the state', sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)),
                       mesh.local_devices,
                       lambda: f'config.scene.{config.scene.name} is too large')
      state = place(job.init(seeds.key(config.seed)), mesh)
      state, running = checkpoints.restore(saved, state, warn=progress.say) or (state, {})
    step, why = int(state.step), DONE
    if step:
      progress.say(f'{workdir}: going on from step {step}')
    if step < config.steps:
      check_steps(step, config.steps, job.steps_per_call)
      state, why = train(config, job._replace(prior=place(job.prior, mesh)), state, running,
                         workdir=workdir, saved=saved,
                         clock=clock, progress=progress)
  step = int(state.step)
  params = on_one_device(state.params['scene'])

  failed = {}
  if why not in SIGNALS and processes.first():
    failed = finish(config, job, params, workdir, step=step, clock=clock, say=progress.say,
                    command=command,
                    devices=mesh.devices.size)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('finished')
  progress.say(clock.summary())
  if why != DONE:
    progress.say(f'{why}: saved step {step} of {config.steps} in {workdir}; the same command goes '
                 'on from there')
  return Outcome(step, why, failed)


def train(config: ConfigDict, job: 'build.Job', state: TrainState, running: dict, *,
          workdir: pathlib.Path, saved,
          clock: metrics.Clock, progress: metrics.Progress) -> tuple[TrainState, str]:
  """Advances to config.steps. Returns the last state, which is saved, and why it is the last."""
  step = int(state.step)
  writes = processes.first()
  with ExitStack() as stack:
    rows, timings = [], []
    if writes:
      drop_previews(workdir, step)
      rows.append(stack.enter_context(closing(metrics.Rows(workdir / 'metrics.jsonl', step=step))))
      timings.append(stack.enter_context(closing(metrics.Rows(workdir / 'timing.jsonl',
                                                              step=step))))
      if config.tensorboard:
        rows.append(stack.enter_context(closing(metrics.TensorBoard(workdir / 'tensorboard',
                                                                    step=step))))

    with clock('compile'):
      text = job.text(step)
      ends = [first for first, _ in job.stages[1:]] + [config.steps]
      stages = [(first, advance.lower(state, job.prior, text).compile()) for (first, advance),
                end in zip(job.stages, ends)
                if step < end and first < config.steps]
    refuse_too_large('a step', max(map(yet_to_take, (compiled for _, compiled in stages))),
                     state.step.sharding.addressable_devices,
                     partial(options.ways_to_fit, config))
    progress.say(f'compiled in {clock.seconds["compile"]:.1f} s; '
                 + '; then '.join(describe(s, job.steps_per_call) for _, s in stages))
    trace = stack.enter_context(tracer(config.profile_steps if writes else '', workdir / 'profile'))
    caught = stack.enter_context(stop_signals())
    stack.enter_context(closing(progress))
    progress.start(step)
    why = ''
    while step < config.steps and not why:
      before, step = step, step + job.steps_per_call
      trace(before)
      with clock('steps'):
        state, info = build.at_step(stages, before)(state, job.prior, text)
        text = job.text(step) if step < config.steps else text  # read while the devices are at work
        info = {name: float(value) for name, value in jax.device_get(info).items()}
      refuse_non_finite(info, before, step, saved)
      running = metrics.add(running, {name: value for name, value in info.items()
                                      if name != 'finite'}, job.steps_per_call)
      late = 0 < 60 * config.max_minutes < clock.total()
      why = agree(DONE if step >= config.steps else caught[0] if caught else OUT_OF_TIME
                  if late else '')

      if crosses(before, step, config.log_every) or why == DONE:
        row, running = metrics.means(running), {}
        progress.row(step, row)
        for sink in rows:
          sink.write(step, row)
        for sink in timings:
          sink.write(step, {'seconds': dict(clock.seconds), 'total': clock.total(),
                            'memory': metrics.memory()})
      if crosses(before, step, config.checkpoint_every) or why:
        with clock('checkpoints'):
          checkpoints.save(saved, step, state, running)
      if crosses(before, step, config.preview_every) and why in ('', DONE):
        with clock('previews'):
          params = on_one_device(state.params['scene'])
          if writes:
            codes = [job.code(params, job.embed(prompt))
                     for prompt in spread(job.prompts, PREVIEWED)]
            preview(job.render, codes, workdir / 'previews' / f'step_{step:06}.png')
    with clock('checkpoints'):
      saved.wait_until_finished()
  return state, why


def crosses(before: int, step: int, every: int) -> bool:
  """Whether a multiple of `every` lies in (before, step]; never, for 0."""
  return every > 0 and step // every > before // every


def check(config: ConfigDict):
  """Refuses, in one line, what can be refused before anything is built."""
  options.check(config)
  profile_range(config.profile_steps)


def check_steps(step: int, steps: int, steps_per_call: int):
  left = steps - step
  if left % steps_per_call:
    fits = step + left // steps_per_call * steps_per_call
    raise ValueError(f'steps={steps}: the {left} left from step {step} are no multiple of '
                     f'steps_per_call={steps_per_call}; '
                     f'give steps={fits or steps_per_call} or steps={fits + steps_per_call}, or '
                     'another steps_per_call')


def refuse_non_finite(info: dict[str, float], before: int, step: int,
                      saved: checkpoints.ocp.CheckpointManager):
  names = [name for name, value in info.items() if not math.isfinite(value) and name != 'finite']
  if not names and info.get('finite', 1.) != 1.:
    names = ['a gradient or parameter']
  if names:
    good = saved.latest_step()
    kept = (f'step {good} is the last good checkpoint' if good is not None
            else 'nothing was saved yet')
    raise FloatingPointError(
        f'{", ".join(names)} {"is" if len(names) == 1 else "are"} not finite at steps {before + 1} '
        f'to {step}; {kept}. The same '
        'command would meet this again: lower the learning rate or take another seed, in another '
        '--workdir')


def on_one_device(params: PyTree) -> PyTree:
  """A whole copy on one local device: to render it takes no other process. All processes call this,
  together."""
  near = lambda x: x.is_fully_addressable or x.is_fully_replicated
  whole = jax.tree.map(lambda x: x if near(x) else multihost_utils.process_allgather(x, tiled=True),
                       params)
  return jax.device_put(jax.device_get(whole), jax.local_devices()[0])


def agree(why: str) -> str:
  """The gravest reason to stop that any process has, so that all stop at the same step."""
  if jax.process_count() == 1:
    return why
  reasons = ('', OUT_OF_TIME, *SIGNALS, DONE)
  return reasons[int(np.max(multihost_utils.process_allgather(np.int32(reasons.index(why)))))]


def bytes_of(compiled: jax.stages.Compiled) -> int:
  """Memory a device needs to run it; 0 where the backend does not tell."""
  sizes = compiled.memory_analysis()
  return sizes and (sizes.argument_size_in_bytes + sizes.output_size_in_bytes
                    + sizes.temp_size_in_bytes
                    - sizes.alias_size_in_bytes) or 0


def yet_to_take(compiled: jax.stages.Compiled) -> int:
  """Of those, what is not there before it runs: its arguments are."""
  sizes = compiled.memory_analysis()
  return (sizes and sizes.output_size_in_bytes + sizes.temp_size_in_bytes
          - sizes.alias_size_in_bytes or 0)


def refuse_too_large(what: str, each: int, devices: Collection[jax.Device], remedy: Callable):
  """ValueError where the devices have not the memory that each still needs. Those of a CPU share
  one."""
  free, needs = metrics.free_memory(), each * (len(devices) if jax.default_backend() == 'cpu'
                                               else 1)
  if 0 < free < needs:
    raise ValueError(f'{what} needs {needs / metrics.GIB:.1f} GiB of memory and '
                     f'{free / metrics.GIB:.1f} are free; '
                     f'{remedy()}')


def describe(compiled: jax.stages.Compiled, steps: int) -> str:
  """Memory and arithmetic of a compiled program of `steps` steps."""
  flops = (compiled.cost_analysis() or {}).get('flops', 0.)
  return (f'a call of {steps} steps takes {bytes_of(compiled) / metrics.GIB:.2f} GiB and '
          f'{flops / 1e9:.1f} GFLOP a device')


@contextmanager
def stop_signals():
  """Yields a list that receives the name of the first SIGTERM, SIGINT or SIGUSR1. A second one acts
  at once."""
  caught = []

  def handler(number, _):
    caught.append(signal.Signals(number).name)
    for name in SIGNALS:
      signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.write(2, f'\n{caught[0]}: saving after this call; once more stops at once\n'.encode())

  if threading.current_thread() is not threading.main_thread():
    yield caught                                 # only the main thread may handle signals
    return
  before = {name: signal.signal(getattr(signal, name), handler) for name in SIGNALS}
  try:
    yield caught
  finally:
    for name, old in before.items():
      signal.signal(getattr(signal, name), old)


def profile_range(steps: str) -> tuple[int, int] | None:
  """'a:b' -> (a, b), '' -> None."""
  if not steps:
    return None
  match = re.fullmatch(r'(\d+):(\d+)', steps)
  if not match or int(match[1]) >= int(match[2]):
    raise ValueError(f"profile_steps={steps!r}: give 'a:b' with a < b, or ''")
  return int(match[1]), int(match[2])


@contextmanager
def tracer(steps: str, folder: pathlib.Path):
  """Yields a function of the step: it starts the profiler at the first step of the range and ends
  it after the last."""
  first, last = profile_range(steps) or (math.inf, math.inf)
  on = []

  def trace(step):
    if not on and first <= step < last:
      jax.profiler.start_trace(folder)
      on.append(True)
    elif on == [True] and step >= last:
      jax.profiler.stop_trace()
      on.append(False)

  try:
    yield trace
  finally:
    trace(math.inf)


def drop_previews(workdir: pathlib.Path, step: int):
  """Removes the pictures of steps that are to be made again."""
  for path in (workdir / 'previews').glob('step_*.png'):
    if int(path.stem.removeprefix('step_')) > step:
      path.unlink()


def spread(prompts: tuple[str, ...], most: int) -> tuple[str, ...]:
  """At most so many of the prompts, evenly apart: neighbors in a corpus are alike."""
  return prompts[::-(-len(prompts) // most)]


def preview(render: Callable, codes: list[PyTree], path: pathlib.Path):
  """Front, left, back and right of each, side by side on white."""
  from PIL import Image
  orbit = jax.device_get(jax.jit(partial(cameras.orbit, 4))())
  see = lambda code, i: np.asarray(render(code, jax.tree.map(lambda x: x[i], orbit),
                                          np.ones(3, np.float32)).rgb)
  sheet = np.concatenate([np.concatenate([see(code, i) for i in range(4)], axis=1)
                          for code in codes])
  path.parent.mkdir(exist_ok=True)
  Image.fromarray(np.uint8(np.clip(sheet, 0., 1.) * 255. + .5)).save(path)


def finish(config: ConfigDict, job: 'build.Job', params: PyTree, workdir: pathlib.Path, *,
           step: int, clock: metrics.Clock,
           say: Callable, command: str, devices: int) -> dict[str, str]:
  """Film, mesh, scores where the prompt names a toy, and the page about it all. What fails is
  returned, by name, and takes nothing else along."""
  with clock('imports'):
    from jaxdreamer.outputs import mesh, report, video
  for pattern in OUTPUTS:
    for path in workdir.glob(pattern):
      path.unlink()                              # of an earlier step
  made, title = [], config.corpus.path or config.prompt
  if config.corpus.path:
    one = {'gallery': lambda: show_some(job, params, workdir)}
  else:
    code = job.code(params, job.embed(config.prompt))
    white = lambda camera: job.render(code, camera, np.ones(3, np.float32))
    one = {
      'film': lambda: video.turntable(white, workdir, distance=3. * job.radius),
      'mesh': lambda: made.append(mesh.write(partial(job.density, code), partial(job.color, code),
                                             white, workdir,
                                             radius=job.radius,
                                             resolution=config.eval.mesh_resolution)),
      'scores': lambda: score(job, code, config.prompt, workdir, step=step,
                              resolution=config.eval.mesh_resolution, extracted=made)}
  write = one | {
    'report': lambda: report.write(workdir, prompt=title, settings=config.to_dict(),
                                   command=command, about={
'step': f'{step} of {config.steps}', 'devices': f'{devices} x {jax.devices()[0].device_kind}',
'jax': jax.__version__, 'seconds': {use: round(seconds, 2)
                                    for use, seconds in clock.seconds.items()}}),
  }
  failed = {}
  for name, output in write.items():
    try:
      with clock(name):
        output()
    except Exception as error:
      if checkpoints.is_full(error):
        raise
      failed[name] = ' '.join(str(error).split())[:300] or type(error).__name__
      with (workdir / 'failed.txt').open('a') as file:
        file.write(f'{name} of step {step}\n{traceback.format_exc()}\n')
      say(f'{name} failed: {failed[name]}; the rest goes on, details in {workdir / "failed.txt"}')
  return failed


def score(job: 'build.Job', code: PyTree, prompt: str, workdir: pathlib.Path, *, step: int,
          resolution: int, extracted: list):
  """scores.json, against the exact shape; nothing where the prompt names no toy."""
  from jaxdreamer import evaluate
  from jaxdreamer.toybox import world
  if world.names_a_toy(prompt):
    evaluate.write(workdir, prompt, step, job, code, resolution=resolution, extracted=extracted[0]
                   if extracted else None)


def show_some(job: 'build.Job', params: PyTree, workdir: pathlib.Path):
  """gallery.html: objects of some of the prompts; evaluate makes and scores all of them."""
  from jaxdreamer import generator_eval
  from jaxdreamer.outputs import gallery
  some = spread(job.prompts, SHOWN)
  gallery.write(workdir / 'gallery.html', list(generator_eval.look(job, params, {'trained': some})),
                title=f'{len(some)} of {len(job.prompts)} prompts')
