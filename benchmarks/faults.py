"""Runs through kills, and through numbers that are not finite:
python -m benchmarks.faults [--kills=N] [--seed=N]

A tiny run, `python -m jaxdreamer.train` in processes of their own, is killed N times by SIGKILL,
SIGTERM or SIGINT, after a time drawn from the length of an unbroken run, or from that of its steps
alone: while it starts, compiles, steps, saves, draws previews or writes its outputs. After each
kill the same command goes on, and each run that comes to its end is compared with the unbroken one:
parameters, optimizer and key bit for bit, metrics.jsonl byte for byte, and all outputs there. Then
the guard: faults put into the step by an estimator of one's own, how many steps were skipped, how
often the run went back, how it ended; and what the guard costs a healthy step.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results
from configs import toybox
from jaxdreamer import build, checkpoints, guard, processes, profiling, runs
from jaxdreamer.estimators.sds import sds
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.types import TrainState

STEPS = 24
RUN = {'prompt': 'a cloud', 'prior.name': 'benchmarks.faults:grey', 'render.background': 'white',
       'scene.sdf_voxels.levels': (4,), 'scene.sdf_voxels.sharpness': (30.,), 'render.samples': 4,
       'render.fine': 0, 'sampling.views': 1, 'steps': STEPS, 'log_every': 2, 'checkpoint_every': 3,
       'preview_every': 4, 'eval.size': 8, 'eval.samples': 4, 'eval.fine': 0,
       'eval.mesh_resolution': 16, 'eval.faces': 100, 'eval.texture': 64}
SIGNALS = ('SIGKILL', 'SIGTERM', 'SIGINT')
LONGEST = 120.                         # seconds until a start that does not end is a fault
ROUNDS = 40


def grey(key, prompt, path):
  """A prior that wants each picture grey."""
  return gaussian(jnp.full((8, 8, 3), .5), std=.3)


def ill(*, first: int = -1, last: int = -1, caught: int = -1, below: float = 0.):
  """SDS whose residual is not finite from step `first` to `last`; and after step `caught`, if the
  mean of a device's noise there is `below` this: what its parameters then hold does not pass."""
  base = sds(guidance=1.)

  def residual(draws, est, prior, z, views, step):
    r, info = base.residual(draws, est, prior, z, views, step)
    return jnp.where((first <= step) & (step <= last) | (est['sick'] > 0.), jnp.inf, r), info

  def loss(draws, est, prior, z, views, step):
    return -est['sick'] * ((step == caught) & (jnp.mean(draws.eps) < below))
  return base._replace(residual=residual, init=lambda key, prior: {'sick': jnp.zeros(())},
                       loss=loss)


def command(workdir, **more):
  """That of the tiny run, with more options."""
  return [sys.executable, '-m', 'jaxdreamer.train', '--config=configs/toybox.py',
          f'--workdir={workdir}', *(f'--config.{name}={value}'
                                    for name, value in (RUN | more).items())]


def start(workdir, cache, **more):
  """The run's process, one device, its programs kept in the folder `cache`; what it says is added
  to the file beside its workdir."""
  environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  with said_at(workdir).open('a') as file:
    return subprocess.Popen(command(workdir, **more), cwd=results.ROOT, stdout=file, stderr=file,
                            env=environment | {'JAX_NUM_CPU_DEVICES': '1', 'JAX_PLATFORMS': 'cpu',
                                               'JAX_COMPILATION_CACHE_DIR': str(cache)})


def said_at(workdir):
  return workdir.with_suffix('.txt')


class Whole(NamedTuple):
  """What a run has left that came to its end."""
  state: TrainState
  rows: bytes
  outputs: list                        # the names of all files but the checkpoints'
  seconds: float = 0.
  stepping: float = 0.                 # of these, from the first step to the last one


def whole(workdir, state):
  """The Whole of a run that ends in `state`."""
  made = sorted(str(path.relative_to(workdir)) for path in workdir.rglob('*')
                if path.is_file() and 'checkpoints' not in path.parts)
  return Whole(state, (workdir / 'metrics.jsonl').read_bytes(), made)


def bits(state):
  """Of parameters, optimizer and key."""
  arrays = jax.tree.leaves((state.step, state.params, state.opt, jax.random.key_data(state.key)))
  return [np.asarray(x).tobytes() for x in arrays]


def differs(workdir, reference):
  """In what the run in `workdir` differs from the unbroken one."""
  with checkpoints.reader(workdir) as saved:
    state, _ = checkpoints.restore(saved, reference.state)
  own = whole(workdir, state)
  same = {'state': bits(state) == bits(reference.state), 'rows': own.rows == reference.rows,
          'outputs': own.outputs == reference.outputs}
  return [name for name, equal in same.items() if not equal]


def unbroken(root, cache, *, side_by_side):
  """The run that nobody kills: once to fill the cache, and then beside as many as will run later,
  for its seconds."""
  for names in (['first'], [f'unbroken_{place}' for place in range(side_by_side)]):
    begin = time.monotonic()
    started = [start(root / name, cache) for name in names]
    for name, process in zip(names, started):
      if process.wait(LONGEST):
        sys.exit(f'the run ends with {process.returncode}: {said_at(root / name).read_text()}')
    seconds = time.monotonic() - begin
  workdir = root / names[-1]
  last = json.loads((workdir / 'timing.jsonl').read_text().splitlines()[-1])
  before = sum(last['seconds'][use] for use in ('build', 'init', 'compile'))
  return whole(workdir, runs.restore_state(workdir)[2])._replace(
    seconds=seconds, stepping=last['total'] - before)


def last_said(workdir):
  """What the last start has said so far."""
  return said_at(workdir).read_text().rpartition('\n--\n')[2]


def wait(process, workdir, seconds, *, stepping):
  """The status of a process that ends within so many seconds, of its start or, if `stepping`, of
  its first step; TimeoutExpired where it does not."""
  while stepping and process.poll() is None and 'compiled in' not in last_said(workdir):
    time.sleep(.02)
  return process.wait(seconds)


def where(workdir):
  """What the last start was at when it was killed."""
  said = last_said(workdir)
  if list((workdir / 'checkpoints').glob('*tmp*')):
    return 'checkpoint'
  if f'step {STEPS}/{STEPS}' in said or f'from step {STEPS}' in said:
    return 'outputs'
  return 'steps' if 'compiled in' in said else 'start'


def killed(rng, root, cache, reference, kills):
  """Kills runs in `root` so often, and lets the last one end. {'kills': a row each, 'ended': in
  what each run that ended differs from `reference`, 'refused': starts that ended by themselves with
  an error}."""
  found, workdir, left = {'kills': [], 'ended': [], 'refused': []}, root / '0', kills
  while left or workdir.exists():
    with said_at(workdir).open('a') as file:
      file.write('\n--\n')
    name, stepping = rng.choice(SIGNALS), left and rng.integers(2)
    after = rng.uniform(0., reference.stepping if stepping else reference.seconds)
    process = start(workdir, cache)
    try:
      status = wait(process, workdir, after if left else LONGEST, stepping=stepping)
    except subprocess.TimeoutExpired:
      if not left:
        process.kill()
        found['refused'].append(f'no end within {LONGEST:g} s')
        break
      process.send_signal(getattr(signal, name))
      row = {'signal': str(name), 'status': process.wait(LONGEST)}
      found['kills'].append(row | {'at': where(workdir)})
      left -= 1
      continue
    if status:
      found['refused'].append(f'{status}: {said_at(workdir).read_text()[-2000:]}')
      break
    found['ended'].append(differs(workdir, reference))
    workdir = root / str(len(found['ended']))
  return found


def kill(kills, *, seed, side_by_side=2):
  """The figures of so many kills."""
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    reference = unbroken(root, root / 'cache', side_by_side=side_by_side)
    shares = [len(part) for part in np.array_split(np.arange(kills), side_by_side)]
    for place in range(side_by_side):
      (root / f'chain_{place}').mkdir()
    with concurrent.futures.ThreadPoolExecutor(side_by_side) as pool:
      each = list(pool.map(lambda place: killed(
        np.random.default_rng((seed, place)), root / f'chain_{place}', root / 'cache', reference,
        shares[place]), range(side_by_side)))
  rows, ended, refused = ([row for one in each for row in one[name]]
                          for name in ('kills', 'ended', 'refused'))
  count = lambda name: dict(sorted(Counter(row[name] for row in rows).items()))
  return {'kills': len(rows), 'kills_not_bit_equal': len(refused) + sum(map(bool, ended)),
          'runs_that_ended': len(ended), 'by_signal': count('signal'), 'at': count('at'),
          'unbroken_seconds': reference.seconds, 'wrong': refused + [wrong for wrong in ended
                                                                     if wrong]}


# {what is not finite: what is changed for it}
GUARD = {
  'nothing': {},
  'the residual at one step': {'estimator.ill.first': 10, 'estimator.ill.last': 10},
  'the residual at seven steps in a row': {'estimator.ill.first': 10, 'estimator.ill.last': 16},
  'the same, four steps a call': {'estimator.ill.first': 10, 'estimator.ill.last': 16,
                                  'steps_per_call': 4},
  'all from step 7 on, for what the noise of step 7 did': {'estimator.ill.caught': 7},
  'all from step 10 on': {'estimator.ill.first': 10, 'estimator.ill.last': 10 ** 6}}


def guard_row(fault, more, root, cache):
  """How the run with this fault ends."""
  workdir = root / 'run'
  status = start(workdir, cache, **{'estimator.name': 'benchmarks.faults:ill', 'guard.skips': 8,
                                    **more}).wait(LONGEST)
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  said = said_at(workdir).read_text().strip().splitlines()
  state = runs.restore_state(workdir)[2]
  return {'fault': fault, 'skipped': sum(row['skipped'] for row in rows),
          'went_back_to': list(guard.read(workdir, begun=True)), 'status': status,
          'checkpoint': int(state.step), 'checkpoint_finite': bool(guard.finite(state)),
          'ended': 'done' if status == 0 else said[-1].replace(str(root) + '/', '')}


def guard_rows():
  """A row of each fault of GUARD."""
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    rows = []
    for index, (fault, more) in enumerate(GUARD.items()):
      (root / str(index)).mkdir()
      rows.append(guard_row(fault, more, root / str(index), root / 'cache'))
      print(json.dumps(rows[-1]), flush=True)
    return rows


def guard_cost():
  """Seconds of the toybox's step without and with the guard, by turns: the medians, and that of
  their ratios."""
  config = toybox.get_config()
  mesh, turns, guarded = build.make_mesh(config), {}, guard.guarded
  for name, wrap in (('unguarded', lambda step: step), ('guarded', guarded)):
    guard.guarded = wrap
    try:
      training = build.training(config, mesh)
    finally:
      guard.guarded = guarded
    training = training._replace(prior=processes.place(training.prior, mesh))
    turns[name] = turn(training, processes.place(training.init(jax.random.key(0)), mesh))
  seconds = profiling.by_turns(jax.random.key(1), turns, rounds=ROUNDS)
  ratios = [b / a for a, b in zip(seconds['unguarded'], seconds['guarded'])]
  return {f'seconds_{name}': statistics.median(times) for name, times in seconds.items()} | {
    'guard_over_unguarded': statistics.median(ratios)}


def turn(training, state):
  """A function that makes one step more, which is compiled already."""
  held = [state]

  def one():
    held[0], info = training.stages[0][1](held[0], training.prior, training.text(0))
    jax.block_until_ready((held[0], info))
  one()
  return one


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(':')[0])
  parser.add_argument('--kills', type=int, default=100)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  figures = kill(args.kills, seed=args.seed)
  print(json.dumps(figures), flush=True)
  figures |= {'guard': guard_rows(), 'guard_cost': guard_cost()}
  print(results.write('faults', figures,
                      f'python -m benchmarks.faults --kills={args.kills} --seed={args.seed}'))


if __name__ == '__main__':
  main()
