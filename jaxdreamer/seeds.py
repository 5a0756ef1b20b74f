"""Seeds: every whole number from 0 to MOST is a stream of random numbers of its own."""
import jax
import numpy as np
from jaxtyping import Key

MOST = 2 ** 64 - 1


def key(seed: int) -> Key[jax.Array, '']:
  """jax.random.key(seed) below 2^32. jax drops the bits above those; here they fill the word of the
  key that it leaves 0."""
  high, low = divmod(seed, 2 ** 32)
  words = np.array(jax.random.key_data(jax.random.key(np.uint32(low))))
  words[0] = high
  return jax.random.wrap_key_data(words)
