"""Metrics: means over the steps between two rows, JSON lines, seconds by use, and the progress
line.

metrics.jsonl holds only what the state decides, so that a resumed run writes the file an unbroken
one does; what the clock decides goes to timing.jsonl. A row carries the step it stands for: all
steps since the row before, up to and with it.
"""
import json
import pathlib
import resource
import sys
import time
from collections import Counter, deque
from contextlib import contextmanager

import jax

from jaxdreamer import files

GIB = 2. ** 30
RECENT = 20  # rows whose mean speed foretells the rest: a pause is forgotten after as many


def add(running: dict, values: dict, steps: int) -> dict:
  """Running sums with `values`, the means over `steps` more steps, added. {} is the empty sum. JSON
  keeps it exactly."""
  if running and set(running) != {'steps', *values}:
    raise ValueError(f'metrics changed from {sorted(set(running) - {"steps"})} to {sorted(values)} '
                     'within one row')
  sums = {name: running.get(name, 0.) + steps * float(value) for name, value in values.items()}
  return {'steps': running.get('steps', 0) + steps} | sums


def means(running: dict) -> dict[str, int | float]:
  """The means, a step, of the running sums that `add` made, and `skipped`, how many steps were not
  finite: these are left out of the means, which are missing where no step is left."""
  counted = round(running['finite'])
  return {'skipped': running['steps'] - counted} | {
    name: total / counted for name, total in running.items()
    if counted and name not in ('steps', 'finite')}


class Rows:
  """An append-only file of JSON lines. Opening it drops the rows after `step`, and a last line that
  was cut short."""

  def __init__(self, path: pathlib.Path, *, step: int):
    kept = []
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
      try:
        if not line.endswith('\n') or json.loads(line)['step'] > step:
          break
      except (json.JSONDecodeError, KeyError, TypeError):
        break
      kept.append(line)
    with files.whole(path) as draft:
      draft.write_text(''.join(kept))
    self._file = path.open('a')

  def write(self, step: int, row: dict):
    self._file.write(json.dumps({'step': step} | row) + '\n')
    self._file.flush()

  def close(self):
    self._file.close()


class TensorBoard:
  """The same rows as TensorBoard events; those after `step` are purged."""

  def __init__(self, folder: pathlib.Path, *, step: int):
    try:
      import tensorboardX
    except ImportError:
      raise ValueError("tensorboard=True needs tensorboardX: pip install "
                       "'jaxdreamer[tensorboard]', or leave it out") from None
    self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=step + 1)

  def write(self, step: int, row: dict):
    for name, value in row.items():
      self._writer.add_scalar(name, value, step)

  def close(self):
    self._writer.close()


class Clock:
  """Wall-clock seconds by what they were spent on: `with clock('compile'): ...`. Uses do not
  nest."""

  def __init__(self):
    self.seconds = Counter()
    self._start = time.monotonic()

  @contextmanager
  def __call__(self, use: str):
    begin = time.monotonic()
    try:
      yield
    finally:
      self.seconds[use] += time.monotonic() - begin

  def total(self) -> float:
    return time.monotonic() - self._start

  def summary(self) -> str:
    uses = {**self.seconds, 'other': self.total() - sum(self.seconds.values())}
    return f'{span(self.total())} in all: ' + ', '.join(f'{use} {seconds:.1f} s'
                                                        for use, seconds in uses.items())


def memory() -> int:
  """Peak bytes in use on the fullest local device; on a CPU, of this process."""
  peaks = [(device.memory_stats() or {}).get('peak_bytes_in_use', 0)
           for device in jax.local_devices()]
  if any(peaks):
    return max(peaks)
  return process_memory()[1]


def process_memory() -> tuple[int, int]:
  """(bytes that this process holds, the most that it ever held); without /proc the first is 0, and
  the second may be that of the process which started this one."""
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    return 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin'
                                                                    else 1024)
  rows = dict(line.split(':', 1) for line in status.read_text().splitlines())
  now, most = (1024 * int(rows[name].split()[0]) for name in ('VmRSS', 'VmHWM'))
  return now, most


def free_memory() -> int:
  """Bytes still free on the fullest local device; on a CPU, for this process. 0 where nothing
  tells."""
  told = [stats for stats in ((device.memory_stats() or {}) for device in jax.local_devices())
          if stats.get('bytes_limit')]
  if told:
    return min(stats['bytes_limit'] - stats.get('bytes_in_use', 0) for stats in told)
  return min((free for free in (machine_memory(), group_memory(), address_space())
              if free is not None), default=0)


def table_of(path: str) -> dict[str, int]:
  """A file of the kernel's, a name and a number a line; {} where there is none."""
  try:
    rows = [line.replace(':', ' ').split() for line in pathlib.Path(path).read_text().splitlines()]
  except OSError:
    return {}
  return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def machine_memory() -> int | None:
  """Of the whole machine, swap too."""
  rows = table_of('/proc/meminfo')
  return 1024 * (rows['MemAvailable'] + rows.get('SwapFree', 0)) if 'MemAvailable' in rows else None


def group_memory() -> int | None:
  """Of the control group (version 2) that holds this process, as that of a container; None where it
  has no limit."""
  try:
    home = pathlib.Path('/proc/self/cgroup').read_text().rpartition('0::')[2].splitlines()[
        0].strip()
    folder = pathlib.Path('/sys/fs/cgroup') / home.strip('/')
    limit, held = ((folder / name).read_text().strip() for name in ('memory.max', 'memory.current'))
  except (OSError, IndexError):
    return None
  # the kernel gives these back
  cached = table_of(str(folder / 'memory.stat')).get('inactive_file', 0)
  return max(int(limit) - int(held) + cached, 1) if limit.isdecimal() else None


def address_space() -> int | None:
  """What `ulimit -v` leaves; None without one."""
  limit, held = resource.getrlimit(resource.RLIMIT_AS)[0], pathlib.Path('/proc/self/statm')
  if limit == resource.RLIM_INFINITY or not held.exists():
    return None
  return max(limit - int(held.read_text().split()[0]) * resource.getpagesize(), 1)


def span(seconds: float) -> str:
  """75 -> '1:15'."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


class Progress:
  """What a run tells its terminal: one moving line where there is a terminal, one plain line a row
  where there is none, nothing by those processes that are `quiet`."""

  def __init__(self, *, steps: int, stream=None, quiet: bool = False):
    self._stream = stream or sys.stdout
    self._steps = steps
    self._quiet = quiet
    self._status = None
    if self._stream.isatty() and not quiet:
      from rich.console import Console
      self._status = Console(file=self._stream, highlight=False).status('', spinner='line')

  def say(self, message: str):
    if self._status:
      self._status.console.print(message, markup=False, soft_wrap=True)
    elif not self._quiet:
      print(message, file=self._stream, flush=True)

  def start(self, step: int):
    """From here the steps are timed."""
    self._past = deque([(step, time.monotonic())], RECENT + 1)
    if self._status:
      self._status.start()

  def line(self, step: int, values: dict[str, int | float]) -> str:
    self._past.append((step, time.monotonic()))
    (first, begin), (_, now) = self._past[0], self._past[-1]
    each = (now - begin) / (step - first)
    numbers = '  '.join(f'{name} {value:.4g}' for name, value in [item for item in values.items()
                                                                  if item[1]][:4])
    return (f'step {step}/{self._steps}  {numbers}  {1. / max(each, 1e-9):.3g} steps/s  '
            f'{span(each * (self._steps - step))} left  {memory() / GIB:.2f} GiB')

  def row(self, step: int, values: dict[str, int | float]):
    if self._status:
      from rich.text import Text
      self._status.update(Text(self.line(step, values)))
    else:
      self.say(self.line(step, values))

  def close(self):
    if self._status:
      self._status.stop()
