"""What a compiled program takes, in memory, arithmetic and seconds; and the profiler's trace of
steps."""
import math
import pathlib
import re
import time
from contextlib import contextmanager
from typing import Callable, Collection

import jax
from jaxtyping import Array, Key

from jaxdreamer import metrics


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


def sharers(devices: Collection[jax.Device]) -> int:
  """How many of these local devices have one memory between them: all those of a CPU."""
  return len(devices) if jax.default_backend() == 'cpu' else 1


def free_each(devices: Collection[jax.Device]) -> int:
  """Bytes that are free for each of these local devices; 0 where nothing tells."""
  return metrics.free_memory() // sharers(devices)


def refuse_too_large(what: str, each: int, devices: Collection[jax.Device], remedy: Callable):
  """ValueError where the devices have not the memory that each still needs."""
  free, needs = metrics.free_memory(), each * sharers(devices)
  if 0 < free < needs:
    raise ValueError(f'{what} needs {needs / metrics.GIB:.1f} GiB of memory and '
                     f'{free / metrics.GIB:.1f} are free; '
                     f'{remedy()}')


def describe(compiled: jax.stages.Compiled, steps: int) -> str:
  """Memory and arithmetic of a compiled program of `steps` steps."""
  flops = (compiled.cost_analysis() or {}).get('flops', 0.)
  return (f'a call of {steps} steps takes {bytes_of(compiled) / metrics.GIB:.2f} GiB and '
          f'{flops / 1e9:.1f} GFLOP a device')


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


def by_turns(key: Key[Array, ''], turns: dict[str, Callable], *,
             rounds: int) -> dict[str, list[float]]:
  """{name: seconds of its function in each round}, all of them once a round in an order drawn anew:
  what slows the machine for a while, or is left in its caches by another, is no method's own."""
  seconds = {name: [] for name in turns}
  for k in jax.random.split(key, rounds):
    for i in jax.random.permutation(k, len(turns)):
      name = list(turns)[int(i)]
      start = time.perf_counter()
      turns[name]()
      seconds[name].append(time.perf_counter() - start)
  return seconds
