"""What an option may take, as rules: a kind, how many values and which range. option_rules.py says
which option takes what."""
import math
import re
from numbers import Integral, Real
from typing import Any, Callable, NamedTuple

Number = float | int


class Rule(NamedTuple):
  """What an option takes, in words and as a test."""
  takes: str                   # ends the message
  fits: Callable[[Any], bool]


def is_number(v) -> bool:
  """Finite, and not True or False."""
  return isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v)


def is_whole(v) -> bool:
  """A whole number, and not True or False."""
  return isinstance(v, Integral) and not isinstance(v, bool)


def bounds(low: float, high: float) -> str:
  """', from 0 to 1', ', 0 or more' or nothing."""
  return (f', from {low:g} to {high:g}' if high < math.inf else f', {low:g} or more'
          if low > -math.inf else '')


def whole(low: int, *, high: Number = math.inf) -> Rule:
  """A whole number from `low` to `high`."""
  span = f', from {low} to {high}' if high < math.inf else f', {low} or more'
  return Rule(f'a whole number{span}', lambda v: is_whole(v) and low <= v <= high)


def none_or(low: int, *, high: Number = math.inf) -> Rule:
  """0, which is none, or a whole number from `low` to `high`."""
  rule = whole(low, high=high)
  return Rule(f'0 or {rule.takes}', lambda v: rule.fits(v) or is_whole(v) and v == 0)


def number(low: float, *, high: float = math.inf) -> Rule:
  """A number from `low` to `high`."""
  return Rule(f'a number{bounds(low, high)}', lambda v: is_number(v) and low <= v <= high)


def above(low: float) -> Rule:
  """A number above `low`, which it leaves out."""
  return Rule(f'a number above {low:g}', lambda v: is_number(v) and v > low)


def below(high: float) -> Rule:
  """A number from 0 to `high`, which it leaves out."""
  return Rule(f'a number, 0 or more and below {high:g}', lambda v: is_number(v) and 0. <= v < high)


def span(low: float, *, high: float = math.inf, open_at: tuple[float, ...] = ()) -> Rule:
  """A range (first, last); `open_at` are ends that the range itself leaves out."""
  def fits(v):
    return (is_row(v) and len(v) == 2 and all(map(is_number, v)) and low <= v[0] <= v[1] <= high
            and not any(end in open_at for end in v))
  left_out = f' and not {" or ".join(f"{end:g}" for end in open_at)}' if open_at else ''
  return Rule(f'two numbers, LOW,HIGH{bounds(low, high)}{left_out}', fits)


def is_row(v) -> bool:
  """Whether it holds values one after another."""
  return isinstance(v, tuple | list)


def is_schedule(v, low: float, high: float) -> bool:
  """A schedule of schedules.py whose values are from `low` to `high`."""
  v = v if is_row(v) else (v,)
  return (len(v) in (1, 3, 4) and all(map(is_number, v)) and all(low <= end <= high
                                                                 for end in v[:2])
          and all(n >= 0 and n == int(n) for n in v[2:]) and (len(v) == 1 or v[-1] >= 1))


def schedule(low: float, *, high: float = math.inf) -> Rule:
  """A schedule of numbers from `low` to `high`."""
  return Rule(f'a schedule, V or V0,V1,STEPS or V0,V1,START,STEPS{bounds(low, high)}',
              lambda v: is_schedule(v, low, high))


def numbers(low: float, *, count: int, high: float = math.inf) -> Rule:
  """`count` numbers from `low` to `high`."""
  return Rule(f'{count} numbers, each{bounds(low, high).removeprefix(",")}',
              lambda v: is_row(v) and len(v) == count and all(is_number(n) and low <= n <= high
                                                              for n in v))


def wholes(low: int, *, least: int = 1) -> Rule:
  """`least` or more whole numbers, each `low` or more."""
  return Rule(f'{least} or more whole numbers, each {low} or more',
              lambda v: is_row(v) and len(v) >= least and all(is_whole(n) and n >= low for n in v))


def one_of(*names: str) -> Rule:
  """One of these names."""
  return Rule(f'one of {sorted(names)}', lambda v: v in names)


def some_of(*names: str) -> Rule:
  """Any of these names, each once."""
  return Rule(f'any of {sorted(names)}, each once, or ()',
              lambda v: is_row(v) and all(v.count(name) == 1 and name in names for name in v))


def is_pattern(v) -> bool:
  """A regular expression."""
  try:
    return isinstance(v, str) and bool(re.compile(v))
  except re.error:
    return False


def is_group(v) -> bool:
  """A group of config.optim.groups."""
  return (is_row(v) and len(v) in (2, 3) and is_pattern(v[0])
          and isinstance(v[-1] if v[2:] else '', str) and is_schedule(v[1], 0., math.inf))


def is_stage(v) -> bool:
  """A stage of config.render.stages."""
  return is_row(v) and len(v) == 2 and all(map(is_whole, v)) and v[0] >= 0 and v[1] >= 1


def is_text(text: str) -> bool:
  """Whether it can be written: bytes of the command line that are no UTF-8 reach Python as what
  cannot."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def ramp(value: Any) -> tuple[Number, Number, int, int]:
  """(v0, v1, start, steps) of a schedule; one number is steady."""
  value = tuple(value) if is_row(value) else (value,)
  if len(value) == 1:
    return value[0], value[0], 0, 0
  v0, v1, *start, steps = value
  return v0, v1, int(start[0]) if start else 0, int(steps)


def value_at(schedule: Any, step: int) -> Number:
  """The number of a schedule at a step."""
  v0, v1, start, steps = ramp(schedule)
  return v0 + (v1 - v0) * min(max(step - start, 0) / max(steps, 1), 1.) if steps else v0
