"""The one loop of all trainings, and a run's training as functions."""
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxdreamer import layout
from jaxdreamer.types import (
  Estimator,
  Gradient,
  Prior,
  RenderLatents,
  Sample,
  Scene,
  Text,
  TrainState,
)


def fit(advance: Callable[[int, PyTree, Any], tuple[PyTree, Any]], state: PyTree,
        feed: Callable[[int], Any], *, step: int, stride: int = 1,
        steps: int | float = math.inf) -> Iterator[tuple[int, PyTree, Any]]:
  """(step, state, info) after each call of `advance` (step, state, feed(step)) -> (state, info),
  which makes `stride` steps, from `step` on until `steps`.

  Whoever iterates watches, saves and stops. Nothing here waits for a device: the next call is fed
  while the last one is at work.
  """
  fed = feed(step) if step < steps else None
  while step < steps:
    state, info = advance(step, state, fed)
    step += stride
    fed = feed(step) if step < steps else None
    yield step, state, info


def crosses(before: int, step: int, every: int) -> bool:
  """Whether a multiple of `every` lies in (before, step]; never, for 0."""
  return every > 0 and step // every > before // every


class Parts(NamedTuple):
  """What the first stage's step is made of, for those who take it apart: the variance
  laboratory."""
  estimator: Estimator
  sample: Sample
  render_latents: RenderLatents
  gradient: Gradient
  tx: Any                       # the optax chain


class Training(NamedTuple):
  """A run's training as functions. Scene parameters are state.params['scene']."""
  init: Callable[[Array], TrainState]
  # (first step, jitted (state, prior, text) -> (state, info)) for each size of the renders
  stages: tuple
  steps_per_call: int           # steps of a call, which donates the state; info is their means
  prior: Prior
  text: Callable[[int], Text]   # the Text that a step takes: always the same for one prompt
  parts: Parts
  looks: tuple                  # (first step, its guard.make_look) for each of the stages

  def fit(self, state: TrainState, *, steps: int) -> Iterator[tuple[int, TrainState, dict]]:
    """(step, state, info) after each call, from where `state` is until `steps`."""
    return fit(lambda step, state, text: at_step(self.stages, step)(state, self.prior, text), state,
               self.text, step=int(state.step), stride=self.steps_per_call, steps=steps)

  def advanced(self, state: TrainState, *, steps: int) -> TrainState:
    """The state at step `steps`."""
    for _, later, _ in self.fit(state, steps=steps):
      state = later
    return state

  def of(self, text: Text) -> 'Training':
    """The same on one prompt, whatever its own are."""
    return self._replace(text=lambda step: text)


def lowered(key: Key[Array, ''], training: Training,
            mesh: Mesh) -> tuple[list[tuple[int, jax.stages.Lowered]], tuple]:
  """[(first step, its program)] of each of the training's stages, from shapes alone, and the shapes
  of its state, prior and text."""
  shapes = (state_shapes(key, training, mesh), layout.shapes(training.prior, mesh),
            training.text(0))
  return [(first, step.lower(*shapes)) for first, step in training.stages], shapes


def compiled(programs: Sequence[tuple[int, jax.stages.Lowered]]
             ) -> list[tuple[int, jax.stages.Compiled]]:
  """[(first step, its program)], compiled side by side: half of what a compiler does keeps one core
  busy, and leaves the others idle."""
  with ThreadPoolExecutor(max(len(programs), 1)) as beside:
    return list(beside.map(lambda one: (one[0], one[1].compile()), programs))


def state_shapes(key: Key[Array, ''], training: Training, mesh: Mesh) -> TrainState:
  """The shapes of the training's state, as it lies on the mesh."""
  return layout.shapes(jax.eval_shape(training.init, key), mesh)


def at_step(stages: Sequence[tuple[int, Callable]], step: int) -> Callable:
  """The last of `stages`, as Training's, that has begun at `step`."""
  return [made for first, made in stages if first <= step][-1]


def first_state(key: Key[Array, ''], *, scene: Scene, estimator: Estimator, prior: Prior,
         tx: optax.GradientTransformation) -> TrainState:
  """The state before the first step; all random numbers of the run come from `key`."""
  k_scene, k_est, _ = jax.random.split(key, 3)
  params = {'scene': scene.init(k_scene), 'est': estimator.init(k_est, prior)}
  return TrainState(jnp.int32(0), params, tx.init(params), run_key(key))


def run_key(key: Key[Array, '']) -> Key[Array, '']:
  """TrainState.key of the run whose random numbers come from `key`; each step folds it."""
  return jax.random.split(key, 3)[2]
