"""What a run has learned, as its outputs take it: a Model makes an Object of each prompt. No
optimizer has a part in it, and a prior only where a generator reads a prompt."""
import math
from functools import partial
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxdreamer import render, train_step
from jaxdreamer.meshes import topology
from jaxdreamer.meshes.files import Given
from jaxdreamer.types import Camera, Params, Rendering, Scene, Text


class Object(NamedTuple):
  """The scene of one prompt, its parameters bound."""
  # (one Camera, background [3]) -> [size, size]; with size= of other pixels a side
  render: Callable[..., Rendering]
  density: Callable[[Array], Array]              # xyz [N, 3] -> [N]
  color: Callable[[Array], Array]                # xyz [N, 3] -> [N, 3]
  radius: float                                  # of the ball that outputs show
  size: int                                      # pixels of a side of a render
  # the signed distance that the density is made of: xyz [N, 3] -> [N]
  distance: Callable[[Array], Array] | None = None
  # () -> vertices [N, 3] and faces [F, 3] of a surface of its own, if it has one
  mesh: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
  inside: float = 0.   # how far from the origin one stands in it; 0: it is seen from outside
  given: Given | None = None           # the user's own mesh that it is, colored

  @property
  def away(self) -> float:
    """How far from the origin films and previews stand."""
    return self.inside or 3. * self.radius

  @property
  def fov(self) -> float:
    """What their cameras span, in radians: 40 degrees, or 70 inside."""
    return math.radians(70. if self.inside else 40.)

  def over(self, gray: float) -> Callable[[Camera], Rendering]:
    """camera -> Rendering over a gray: 0 is black, 1 is white."""
    return lambda camera: self.render(camera, np.full(3, gray, np.float32))


class Model(NamedTuple):
  """What holds for all parameters that a run may come to."""
  prompts: tuple[str, ...]                       # that it learns
  embed: Callable[[str], Text | None]            # None for a scene that reads none
  object: Callable[[Params, str], Object]
  # what a preview shows of parameters that make no object: params -> [H, W, 3]
  sheet: Callable[[Params], np.ndarray] | None = None


def model(key: Key[Array, ''], scene: Scene, *, prompts: tuple[str, ...],
          embed: Callable[[str], Text], step: int, size: int = 64, samples: int = 64,
          fine: int = 0, ball: float = 1., radius: float = 1., inside: float = 0.,
          disparity: bool = False, sky: Callable[[Any, Array, Array], Array] | None = None,
          chunk: int | None = None) -> Model:
  """The Model of `scene` as `step` sees it: renders of `size` pixels with `samples` and `fine` more
  along a ray in the `ball`, placed by `disparity` as render.image's, `chunk` rays at a time;
  `radius` and `inside` are Object's. `sky` (background's code, key, direction [3]) -> color is what
  stands behind it, or else what the caller says. `embed` (prompt) -> Text is asked by generators
  alone."""
  read = embed if reads_text(scene) else lambda prompt: None

  @jax.jit
  def prepare(params, text):
    text = text and text._replace(noise=jnp.zeros(train_step.NOISE))
    return scene.focus(scene.prepare(params, text), step)

  @partial(jax.jit, static_argnames='size')
  def draw(code, camera, background, *, size=size):
    behind = partial(sky, code['background'], key) if sky else lambda direction: background
    if scene.render:
      seen = scene.render(code, camera, size=size, background=behind, shade=render.unlit)
    else:
      seen = render.image(key, partial(scene.field, code), camera, size=size, samples=samples,
                          fine=fine, radius=ball, jitter=0., background=behind,
                          disparity=disparity, chunk=chunk,
                          clearness=scene.clearness and partial(scene.clearness, code))
    # what trains a scene no output shows: unasked, it is not computed
    return Rendering(seen.rgb, seen.opacity, seen.depth, seen.normal, *(None,) * 7)

  at = lambda code, xyz: jax.vmap(partial(scene.field, code))(xyz)
  density = jax.jit(lambda code, xyz: at(code, xyz)[0])
  color = jax.jit(lambda code, xyz: at(code, xyz)[1][:, :3])
  distance = scene.distance and jax.jit(
    lambda code, xyz: jax.vmap(partial(scene.distance, code))(xyz))

  def object_of(params, prompt):
    code = prepare(params, read(prompt))
    mesh = scene.mesh and (lambda: topology.compact(scene.mesh(code)))
    return Object(*(partial(f, code) for f in (draw, density, color)), radius, size,
                  distance and partial(distance, code), mesh, inside, scene.given)
  return Model(prompts, read, object_of)


def reads_text(scene: Scene) -> bool:
  """Whether a scene is a generator: whether its code depends on the text."""
  try:
    jax.eval_shape(lambda key: scene.focus(scene.prepare(scene.init(key), None), 0),
                   jax.random.key(0))
  except (AttributeError, TypeError):
    return True
  return False
