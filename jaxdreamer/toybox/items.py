"""What there is in the world: an `Item` is one toy, or one solid on or beside another, as small
integer arrays.

Items sample and vmap inside jit. Kind and relation together are an item's *composition*.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from jaxdreamer.toybox.toys import BASES, KINDS, SOLIDS

COLORS = {
  'red': (.86, .07, .07), 'green': (.10, .58, .14), 'blue': (.08, .20, .86),
  'yellow': (.97, .84, .08),
  'orange': (.98, .48, .04), 'purple': (.47, .10, .68), 'pink': (.98, .48, .68),
  'white': (.95, .95, .95),
  'black': (.07, .07, .08), 'brown': (.42, .23, .09), 'cyan': (.08, .80, .86),
  'grey': (.50, .50, .52),
}
# a pattern alternates with black on these, with white on all others
DARK_PARTNERS = ('white', 'yellow')
# every channel of the color it alternates with
PARTNERS = tuple(.07 if c in DARK_PARTNERS else .95 for c in COLORS)
PATTERNS = ('plain', 'striped', 'checkered', 'spotted')
RELATIONS = ('alone', 'on', 'beside')
ALONE, ON, BESIDE = range(3)


class Item(NamedTuple):
  """Indices into KINDS, RELATIONS, COLORS and PATTERNS.

  `on` puts the first toy on the second; `beside`, seen from the front, the first on the left.
  Alone, the second entries are 0.
  """
  kind: Int[Array, '2']
  relation: Int[Array, '']
  color: Int[Array, '*b 2']
  pattern: Int[Array, '*b 2']


def repainted(item: Item, which: int, color: int) -> Item:
  """An item in NumPy, as language.parse returns it, with its object `which` in another color."""
  return item._replace(color=np.where(np.arange(2) == which, color, item.color))


Index = Int[Array, '']


def sample_composition(key: Key[Array, ''], *, pairs: float = .4) -> tuple[Index, Index, Index]:
  """Kind, relation and second kind: a pair with probability `pairs`, on and beside alike."""
  k_pair, k_kind, k_relation, k_solids, k_base = jax.random.split(key, 5)
  kind = jax.random.randint(k_kind, (), 0, len(KINDS))
  first, other = jax.random.randint(k_solids, (2,), 0, len(SOLIDS))
  base = jax.random.choice(k_base, jnp.array([KINDS.index(b) for b in BASES]))
  relation = jax.random.randint(k_relation, (), ON, BESIDE + 1)
  is_pair = jax.random.bernoulli(k_pair, pairs)
  second = jnp.where(relation == ON, base, other)
  return jnp.where(is_pair, first, kind), jnp.where(is_pair, relation,
                                                    ALONE), jnp.where(is_pair, second, 0)


def sample_of(key: Key[Array, ''], kind_a: Index, relation: Index, kind_b: Index) -> Item:
  """An item of a given composition: the two colors differ, and a quarter of the lone toys wear a
  pattern."""
  k_color, k_pattern, k_which = jax.random.split(key, 3)
  is_pair = relation != ALONE
  first, step = jax.random.randint(k_color, (2,), jnp.array([0, 1]), len(COLORS))
  second = jnp.where(is_pair, (first + step) % len(COLORS), 0)
  is_dressed = jax.random.bernoulli(k_pattern, .25) & ~is_pair
  pattern = jnp.where(is_dressed, jax.random.randint(k_which, (), 1, len(PATTERNS)), 0)
  kind = jnp.stack([kind_a, jnp.where(is_pair, kind_b, 0)])
  return Item(kind, relation, jnp.stack([first, second]),
              jnp.stack([pattern, jnp.zeros_like(pattern)]))


def sample(key: Key[Array, ''], *, pairs: float = .4) -> Item:
  """A random item."""
  k_composition, k_rest = jax.random.split(key)
  return sample_of(k_rest, *sample_composition(k_composition, pairs=pairs))
