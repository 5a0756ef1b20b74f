"""View-dependent prompts: "{prompt}, front view" and so on (DreamFusion section 3.2; threestudio's template); and a store of what
text encoders made of prompts."""
import os
import pathlib
from typing import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

VIEWS = ('front view', 'side view', 'back view', 'overhead view')      # the order of cameras.view_bin


def view_prompts(prompt: str) -> list[str]:
  """The four prompts of one object, in the order of cameras.view_bin."""
  return [f'{prompt}, {view}' for view in VIEWS]


def stored(name: str, make: Callable[[], Array]) -> np.ndarray:
  """The array of this name under XDG_CACHE_HOME/jaxdreamer/text, made and kept there where it is new or cannot be read."""
  path = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'jaxdreamer' / 'text' / f'{name}.npy'
  try:
    return np.load(path, allow_pickle=False)
  except (OSError, ValueError, EOFError):
    rows = np.asarray(make())
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(part := path.with_suffix(f'.{os.getpid()}.part'), 'wb') as file:
      np.save(file, rows, allow_pickle=False)
    os.replace(part, path)
  except OSError:
    pass                                         # a cache that cannot be written only costs the time it would have saved
  return rows


def against(words: Float[Array, '4 L D'], azimuth: Float[Array, ''], elevation: Float[Array, ''], *, overhead: float = 1.0472
            ) -> tuple[Float[Array, 'L D'], Float[Array, '2 L D'], Float[Array, '2']]:
  """What Perp-Neg (Armandpour et al. 2023) tells of one view: the text between the words of its two nearest sides, two texts
  that it is not, and their weights, which are negative or 0; constants as in threestudio. `overhead` is the elevation above
  which the view is from above, and nothing is denied. Angles are radians."""
  front, side, back, above = words
  turn = jnp.abs((azimuth + jnp.pi) % (2. * jnp.pi) - jnp.pi) / (.5 * jnp.pi)            # 0 front, 1 side, 2 back
  fading = lambda a, c, r: -(a * jnp.exp(-.5 * r) + c)
  near, far = 1. - turn, 2. - turn
  ahead = turn < 1.
  positive = jnp.where(ahead, near * front + turn * side, far * side + (turn - 1.) * back)
  negatives = jnp.where(ahead, jnp.stack([front, side]), jnp.stack([side, front]))
  weights = jnp.where(ahead, jnp.stack([fading(4., -2.426, near), fading(4., -2.426, turn)]),
                      jnp.stack([fading(1., -.606, far), fading(1., .967, far)]))
  high = elevation > overhead
  return jnp.where(high, above, positive), negatives, jnp.where(high, 0., jnp.minimum(weights, 0.))
