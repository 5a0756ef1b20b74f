"""Results on disk: the figures of one benchmark, and under "made" what is needed to make them
again."""
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'
PACKAGES = ('jax', 'flax', 'optax', 'numpy')


def write(name, figures, command):
  """Writes the dict `figures` to benchmarks/results/NAME.json and returns its path. Tables are
  lists of dicts."""
  path = RESULTS / f'{name}.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps({**figures, 'made': made(command)}, indent=2, allow_nan=False)
  path.write_text(text + '\n')
  return path


def keep(path, figures, sources):
  """Keeps what one run found in the file `path`, with the hash of the sources that it ran on, for
  when the benchmark goes on."""
  path.write_text(json.dumps({'sources': sources, 'figures': figures}) + '\n')


def kept(path, sources):
  """What `keep` left in `path`, or None. Ends where that is of other sources, or says none: no
  table is made of several."""
  if not path.exists():
    return None
  found = json.loads(path.read_text())
  theirs = found.get('sources') if isinstance(found, dict) else None
  if theirs != sources:
    sys.exit(f'{path}: a run of the sources {theirs}, and these are {sources}: delete it, and it '
             'is made anew')
  return found['figures']


def read(name):
  """The figures of benchmark `name`, or None where it has not run yet."""
  path = RESULTS / f'{name}.json'
  return json.loads(path.read_text()) if path.exists() else None


def made(command):
  return {
      'command': command,
      'commit': commit(),
      'versions': {'python': platform.python_version(), **{p: importlib.metadata.version(p)
                                                           for p in PACKAGES}},
      'device': device(),
      'date': datetime.date.today().isoformat(),
  }


def commit():
  """Short hash of HEAD; a plus sign follows where the library or its configs differ from it."""
  def git(*args):
    try:
      return subprocess.run(('git', *args), cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:                      # a bare image
      return ''
  changed = git('status', '--porcelain', '--', 'jaxdreamer', 'configs', 'benchmarks/*.py')
  return (git('rev-parse', '--short', 'HEAD') or 'none') + ('+' if changed else '')


def device():
  """'AMD EPYC, 2 cores', or '8 x NVIDIA H200'."""
  import jax
  devices = jax.local_devices()
  if devices[0].platform != 'cpu':
    return f'{len(devices)} x {devices[0].device_kind}' if len(devices) > 1 else devices[
        0].device_kind
  return (f'{processor()}, '
          f'{len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()} '
          'cores')


def processor():
  try:
    with open('/proc/cpuinfo') as lines:
      return next(line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
  except (OSError, StopIteration):
    return platform.processor() or platform.machine()
