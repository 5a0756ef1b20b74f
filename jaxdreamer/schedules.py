"""Numbers that change along a run, as plain data: one vocabulary for everything that anneals.

A schedule is a number or (v,), which stay; (v0, v1, steps), linear from v0 to v1 over `steps` and
constant after; or (v0, v1, start, steps) with a start.
"""
from typing import Any

import optax

Number = float | int
Schedule = Number | tuple[Number, ...]
NEVER = (0.,)                    # of what is left out


def is_never(schedule: Schedule) -> bool:
  """Whether it is 0 for good, so that what it weighs need not be computed."""
  return schedule in (0., NEVER)


def at(schedule: Schedule, step) -> Any:
  """The schedule's value at `step`, a number or a traced one: at((0., 1., 10), 5) is .5."""
  values = (schedule,) if isinstance(schedule, (int, float)) else tuple(schedule)
  if len(values) not in (1, 3, 4):
    raise ValueError(f'a schedule is a number, (v,), (v0, v1, steps) or (v0, v1, start, steps); '
                     f'got {values}')
  if len(values) == 1:
    return optax.constant_schedule(float(values[0]))(step)
  v0, v1, *start, steps = values
  return optax.linear_schedule(float(v0), float(v1), int(steps),
                               int(start[0]) if start else 0)(step)
