"""The toybox as a corpus: which captions a generator learns, and which compositions it has never
seen.

Every toy in every color but one of its own, and solids on solids, a fifth of which pairs are kept
back in all their colors:
each kind, each color and each place in a pair is seen in training, the held-out ones only never
together.
"""
import itertools

import numpy as np

from jaxdreamer.toybox import world

COLORINGS = 4                         # of each pair of solids


def item(kinds: tuple[str, ...], colors: tuple[int, ...]) -> world.Item:
  """A plain toy, or the first on the second."""
  pad = (0,) * (2 - len(kinds))
  kind = np.array([world.KINDS.index(k) for k in kinds] + [*pad], np.int32)
  relation = np.int32(world.ON if len(kinds) == 2 else world.ALONE)
  return world.Item(kind, relation, np.array([*colors, *pad], np.int32), np.zeros(2, np.int32))


def captions() -> tuple[tuple[str, ...], tuple[str, ...]]:
  """(trained, held out)."""
  trained, held = [], []
  n = len(world.COLORS)
  for k, kind in enumerate(world.KINDS):
    for color in range(n):
      (held if color == 5 * k % n else trained).append(world.caption(item((kind,), (color,))))
  pairs = list(itertools.product(world.SOLIDS, world.BASES))
  for k, pair in enumerate(pairs):
    first = np.random.default_rng(k).permutation(n)
    for j in range(COLORINGS):
      (held if k % 5 == 2 * (k // len(world.BASES)) % 5 else trained).append(
        world.caption(item(pair, (int(first[j]), int(first[j + COLORINGS])))))
  return tuple(trained), tuple(held)
