"""The names of options: the old ones, those of functions of the user's own, and what is nearest to
a slip."""
import difflib
import inspect
from fnmatch import fnmatchcase
from typing import Any, Sequence

from jaxdreamer import sections
from jaxdreamer.rules import is_row

# sections with a name, and the options of each function it may name
CHOICES = ('scene', 'prior', 'estimator')
# Options and, behind =, values that have another name by now.
OLD_NAMES = {
  'negative': 'negative_prompt',
  'estimator.csd.negative': 'estimator.csd.omega2',
  'estimator.*.negatives': 'perp_neg',
  'estimator.*.weight': 'sampling.weight',
  'render.background=learnt': 'learned',
  'estimator.ssd.mu=learnt': 'learned',
  'estimator.ssd.phi=neighbours': 'neighbors',
}


def renamed(name: str, *, value: Any = None) -> str:
  """What an option or its value is called now, in one line; '' where it has its old name."""
  for old, new in OLD_NAMES.items():
    pattern, _, word = old.partition('=')
    if fnmatchcase(name, pattern):
      if not word:
        return f'config.{name} is called config.{new} now'
      if word == value or is_row(value) and word in value:
        return f'config.{name}: {word!r} is called {new!r} now'
  return ''


def nearest(name: str, names: Sequence[str]) -> list[str]:
  """Those of the names that look most like `name`, by their last part or as a whole."""
  tail = lambda name: name.split('.')[-1]
  likeness = lambda other: max(difflib.SequenceMatcher(None, tail(other), tail(name)).ratio(),
                               difflib.SequenceMatcher(None, other, name).ratio())
  best = max(map(likeness, names), default=0.)
  return [other for other in sorted(names, key=likeness, reverse=True)
          if likeness(other) > max(.6, best - .1)][:4]


def own(name: str, defaults: dict) -> bool:
  """Whether an option belongs to a function of the user's own."""
  section, _, rest = name.partition('.')
  return section in CHOICES and '.' in rest and rest.split('.')[0] not in defaults[section]


def check_own(name: str, chosen: str) -> None:
  """ValueError where `name`, an option of the user's own function `chosen`, is none of its
  arguments."""
  section, function, option = name.split('.')[:3]
  if chosen.partition(':')[2] != function:
    return
  mine = sections.own_function(chosen, option=f'config.{section}.name')
  if not sections.takes(mine, option):
    raise ValueError(unknown(name, [f'{section}.{function}.{other}'
                                    for other in inspect.signature(mine).parameters]))


def unknown(name: str, names: Sequence[str]) -> str:
  """What to answer to an option that there is not."""
  near = ', '.join(f'config.{other}' for other in nearest(name, names))
  return f'there is no option config.{name}; ' + (f'nearest: {near}' if near else
                                                  f'there are {", ".join(names) or "none"}')
