"""The variance laboratory: estimators and ways of sampling side by side, at frozen parameters of a
scene.

Two kinds of draws, both on common random numbers, and one of times:
  nested   one camera, B renders of it (background color, jitter of the rays), T times under each, E
           noises under each time: the trace of the residual's covariance in image space and of the
           gradient's in parameter space, split into their camera, render, time and noise parts
           (methods that sample as published share it)
  whole    the gradient of a whole step, as `method` samples it: its variance, as it is and as Adam
           divides it, and its mean
  seconds  of the train step itself, with all that it learns and its optimizer, the methods by turns
           in random order

The product of variance and seconds is what decides among methods of one mean, because a cheaper
step can be taken more often.
A variance says nothing across means: a residual of half the length has a quarter of it. So each
method is held against the first that has its mean, the reference wherever that is the reference's;
what has another mean stands beside.

How a method is named, method_texts.py says.
"""
import shlex
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree
from ml_collections import ConfigDict

from jaxdreamer import build, comparison, method_texts, parallel, profiling, statistics, train_step
from jaxdreamer.training import Parts, Training
from jaxdreamer.types import Draws, Text, TrainState

LARGEST = 2 ** 18                # parameters beyond this many are folded: see `flat`
TURN = 10  # steps of a turn: what an estimator does every few steps is in each
HELD = 32  # draws that Adam's v is made of where the run's optimizer has none yet


class Method(NamedTuple):
  """A method that is ready to be measured."""
  name: str
  training: Training
  config: ConfigDict
  nested: Callable | None        # None where the method differs in sampling alone
  mean: str                      # method_texts.mean_of
  begin: Callable                # (key, params, step) -> TrainState of `step`
  # (TrainState, prior, text) -> the same and info: a train step, which takes the state's memory
  step: Callable

  def embed(self, prompt: str) -> Text:
    """The Text of any prompt, beside the negative prompt of the config."""
    return build.embedder(self.config, self.training.prior)(prompt)

  def gradient(self, key: Key[Array, ''], params: PyTree, prior, text: Text, step) -> PyTree:
    """The scene's gradient in one step."""
    state, _ = self.step(self.begin(key, params, step), prior, text)
    return state.opt[1]['scene']

  def whole(self, *args) -> Float[Array, 'P']:
    """The scene's gradient as one vector; takes what `gradient` takes."""
    return flat(self.gradient(*args))


@jax.jit
def flat(tree: PyTree) -> Float[Array, 'P']:
  """All numbers of a tree in one vector. Beyond LARGEST they are folded by a count sketch (Charikar
  et al. 2002): each is added to one of LARGEST places with a random sign, fixed for good. Inner
  products keep their mean, and are off by about sqrt(2 / LARGEST), .3%."""
  x = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
  if x.size <= LARGEST:
    return x
  k_place, k_sign = jax.random.split(jax.random.key(0))
  place = jax.random.randint(k_place, x.shape, 0, LARGEST)
  return jnp.zeros(LARGEST).at[place].add(x * jax.random.rademacher(k_sign, x.shape, jnp.float32))


@jax.jit
def divided(gradient: PyTree, v: PyTree, b2, eps) -> PyTree:
  """A gradient as Adam steps by it (Kingma & Ba 2015), without momentum: over the root of v, which
  takes in its square first."""
  return jax.tree.map(lambda g, v: g / (jnp.sqrt(b2 * v + (1. - b2) * g ** 2) + eps), gradient, v)


def make_nested(parts: Parts, *, renders: int, times: int, noises: int) -> Callable:
  """(key, params, prior, text, step) -> what statistics.Nested needs of one camera, in both spaces,
  and (t, |gradient|^2) [B T E].

  Each t and eps is a draw of its own, as published, whose importance weight is 1.
  """
  def nested(key: Key[Array, ''], params, prior, text: Text, step):
    k_view, k_renders, k_draws = jax.random.split(key, 3)
    one = jnp.arange(1)
    camera = parts.sample(k_view, one, step)[0]

    def rendered(k_render, k_draws):
      """(residuals, gradients, t) [T E ...] of one render."""
      k_times, k_noises = jax.random.split(k_draws)
      drawn = jax.vmap(lambda k: jax.tree.map(lambda a: a[0], parts.sample(k, one, step)[1]))
      under, fresh = drawn(jax.random.split(k_times, times)), drawn(
          jax.random.split(k_noises, times * noises))
      draws = Draws(eps=fresh.eps, key=fresh.key, **{
        name: jnp.repeat(getattr(under, name), noises) for name in ('t', 'weight', 't_min')})
      z, cost, views, pullback = parts.render_latents(params['scene'], prior, text, camera,
                                                      k_render[None], step)
      views, latent = jax.tree.map(lambda a: jnp.repeat(a, times * noises, 0),
                                   (views, jax.lax.stop_gradient(z)))
      r, _ = train_step.residual(parts.estimator, draws, params['est'], prior, latent, views, step)
      return r, jax.vmap(lambda r: flat(pullback(r[None], jnp.zeros_like(cost))))(r), draws.t
    r, grads, t = jax.vmap(rendered)(*(jax.random.split(k, renders) for k in (k_renders, k_draws)))

    def summary(x):
      x = x.reshape(renders, times, noises, -1)
      by_time = jnp.mean(x, 2)
      by_render = jnp.mean(by_time, 1)
      spread = lambda x, axis: jnp.mean(jnp.sum(jnp.var(x, axis, ddof=1), -1))
      return {'noise': spread(x, 2), 'times': spread(by_time, 1), 'renders': spread(by_render, 0),
              'square': jnp.mean(jnp.sum(x ** 2, -1)), 'mean': jnp.mean(by_render, 0)}
    return {'image': summary(r), 'parameter': summary(grads)}, (t.ravel(),
                                                                jnp.sum(grads ** 2, -1).ravel())
  return nested


def recorded(tx: optax.GradientTransformation) -> optax.GradientTransformation:
  """`tx`, which keeps beside its own state the gradient that it was given last."""
  def update(gradient, state, params=None):
    updates, own = tx.update(gradient, state[0], params)
    return updates, (own, gradient)
  return optax.GradientTransformation(lambda params: (tx.init(params),
                                                      jax.tree.map(jnp.zeros_like, params)), update)


def make_step(parts: Parts, mesh, *, views: int, how: str = 'shard_map',
              many: bool = False) -> tuple[Callable, Callable]:
  """(begin, step) of a Method, from what the run's own step is made of. All of the gradient is an
  output, what the estimator learns for itself too, and so is the optimizer's state: the compiler
  drops nothing that a train step computes."""
  tx = recorded(parts.tx)
  local_step = train_step.make_local_step(sample=parts.sample, gradient=parts.gradient, tx=tx)
  mapped = parallel.data_parallel(local_step, mesh, how=how, many=many)
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  def begin(key, params, step):
    key, params = jax.tree.map(jnp.copy, (key, params))      # the step takes their memory
    return TrainState(jnp.int32(step), params, tx.init(params), key)
  return (jax.jit(begin, out_shardings=everywhere),
          jax.jit(lambda state, prior, text: mapped(state, prior, text, jnp.arange(views)),
                  donate_argnums=0))


def subject(config: ConfigDict, method: str, *, renders: int = 2, times: int = 2,
            noises: int = 2) -> Method:
  """`method` on the scene of `config`, its functions jitted."""
  changed = method_texts.configured(config, method)
  mesh = build.make_mesh(changed)
  training = build.training(changed, mesh)
  plain = not any(option.startswith('sampling.') and not option.startswith('sampling.weight=')
                  for option in shlex.split(method)[1:])
  nested = jax.jit(make_nested(training.parts, renders=renders, times=times,
                               noises=noises)) if plain else None
  return Method(method, training, changed, nested, method_texts.mean_of(changed), *make_step(
    training.parts, mesh, views=changed.sampling.views, how=changed.mesh.map,
    many=bool(changed.corpus.path)))


def learn(key: Key[Array, ''], s: Method, est: PyTree | None, scene: PyTree, text: Text, step: int,
          *, steps: int) -> PyTree:
  """What the estimator learns for itself in `steps` steps on a scene that stays as it is, after
  `est`, or anew."""
  state = s.begin(key, {'scene': scene, 'est': s.training.init(key).params['est'] if est is None
                        else est}, step)
  if jax.tree.leaves(state.params['est']):
    for _ in range(steps):
      state, _ = s.step(state, s.training.prior, text)
      state = state.replace(params={'scene': jax.tree.map(jnp.copy, scene),
                                    'est': state.params['est']})
  return state.params['est']


def measure(key: Key[Array, ''], subjects: list[Method], prompt: str, scene: PyTree,
            v: PyTree | None, step: int, *, cameras: int,
            repeats: int, warm: int, shape: tuple[int, int, int], kept: dict[str, PyTree],
            before: dict[str, PyTree], say: Callable) -> tuple[dict[str, comparison.Measured],
                                                               dict[str, PyTree]]:
  """The draws of every subject at one state, `cameras` of nested ones of `shape` (B, T, E) and
  `repeats` whole steps, and what each has learned for itself. The first subject is the reference.

  `v` is Adam's, None to make it of HELD steps of the reference. `kept` holds what an estimator has
  learned for itself in its run, by method; the others' learn for `warm` steps first, after what
  they had learned `before`, at an earlier state.
  """
  k_learn, k_nested, k_whole, k_held = jax.random.split(key, 4)
  # wherever they come from: programs are compiled for where things lie
  scene, v = jax.device_put(jax.device_get((scene, v)))
  out, learned, reference, at = {}, {}, None, jnp.int32(step)
  for s in subjects:
    text = s.embed(prompt)
    est = learned[s.name] = kept[s.name] if s.name in kept else learn(
      k_learn, s, before.get(s.name), scene, text, step, steps=warm)
    args = {'scene': scene, 'est': est}, s.training.prior, text, at
    if v is None:
      squares = (jax.tree.map(jnp.square, s.gradient(k, *args))
                 for k in jax.random.split(k_held, HELD))
      total = next(squares)
      for square in squares:
        total = jax.tree.map(jnp.add, total, square)
      v = jax.tree.map(lambda square: square / HELD, total)
    nested = (None, None, None)
    if s.nested:
      seen = [jax.device_get(s.nested(k, *args)) for k in jax.random.split(k_nested, cameras)]
      sections, power = zip(*seen)
      nested = (*(statistics.gather([c[space] for c in sections], shape)
                  for space in ('image', 'parameter')),
                tuple(np.concatenate(a) for a in zip(*power)))
    adam = s.config.optim
    drawn = []
    for k in jax.random.split(k_whole, repeats):
      g = s.gradient(k, *args)
      drawn.append(jax.device_get((flat(g), flat(divided(g, v, adam.b2, adam.eps)))))
    plain, scaled = (np.stack(x).astype(np.float64) for x in zip(*drawn))
    reference = plain if reference is None else reference
    apart = plain - reference
    out[s.name] = comparison.Measured(*nested, plain @ plain.T, scaled @ scaled.T, apart @ apart.T)
    say(f'{prompt}, step {step}: {s.name}')
  return out, learned


def take_time(key: Key[Array, ''], subjects: list[Method], prompt: str, scene: PyTree,
              learned: dict[str, PyTree], step: int, *,
              rounds: int, say: Callable = lambda what: None) -> dict[str, np.ndarray]:
  """{method: seconds of a train step [rounds]}, each the mean of TURN steps, which a subject takes
  from where it stands on."""
  states = {}
  for s in subjects:
    state = s.begin(key, {'scene': scene, 'est': learned[s.name]}, step)
    # compiled before it is timed
    states[s.name], _ = jax.block_until_ready(s.step(state, s.training.prior, s.embed(prompt)))

  def turn(s):
    text = s.embed(prompt)
    def steps():
      for _ in range(TURN):
        states[s.name], _ = s.step(states[s.name], s.training.prior, text)
      jax.block_until_ready(states[s.name])
    return steps
  seconds = profiling.by_turns(key, {s.name: turn(s) for s in subjects}, rounds=rounds)
  say(f'{rounds} rounds of {TURN} steps, timed')
  return {name: np.array(spent) / TURN for name, spent in seconds.items()}
