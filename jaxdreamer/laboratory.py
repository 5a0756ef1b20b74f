"""The variance laboratory: estimators and ways of sampling side by side, at frozen parameters of a scene.

Two measurements, both on common random numbers:
  nested   one view, T times, E noises under each: the trace of the residual's covariance in image space and of the gradient's
           in parameter space, split into their camera, time and noise parts (methods that sample as published share it)
  whole    the gradient of a whole step, as `method` samples it: its variance, its mean, its seconds; the product of variance
           and seconds is what decides, because a cheaper step can be taken more often
A method is a text: an estimator's name, then options, as in 'ssd estimator.ssd.phi=constant,depth sampling.draws=4'. What it
does not name is as in the config, but for sampling, which starts as SDS was published: independent, one draw a render.
"""
import ast
import re
import time
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree
from ml_collections import ConfigDict

from jaxdreamer import build, moments, train_step
from jaxdreamer.types import Draws, Text

PUBLISHED = {'design': 'independent', 'draws': 1, 'antithetic': False, 'density': (1.,)}
REFERENCE = 'sds'
LARGEST = 2 ** 18                # parameters beyond this many are folded: see `flat`
BINS = 8                         # of t, for the power that importance sampling wants


class Subject(NamedTuple):
  """A method that is ready to be measured."""
  name: str
  job: build.Job
  config: ConfigDict
  nested: Callable | None        # None where the method differs in sampling alone
  whole: Callable


def value(text: str):
  """The Python value of an option's text: numbers and tuples of them as such, all else as text; `a,` is ('a',)."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    words = [word for word in text.split(',') if word]
    return tuple(words) if ',' in text else text


def configured(config: ConfigDict, method: str) -> ConfigDict:
  """`config` as `method` wants it. ValueError for an option that the config does not have."""
  config = config.copy_and_resolve_references()
  config.mesh.data = 1
  config.sampling.update(PUBLISHED)
  for name in config.regularizers:
    config.regularizers[name] = build.NEVER
  name, *options = method.split()
  for option in [f'estimator.name={name}', *options]:
    path, _, text = option.partition('=')
    *parents, last = path.split('.')
    section = config
    for parent in parents:
      section = section.get(parent, None) if isinstance(section, ConfigDict) else None
    if not isinstance(section, ConfigDict) or last not in section:
      raise ValueError(f'--methods: {method!r}: there is no option {path!r}')
    old, new = section[last], value(text)
    if isinstance(old, tuple) and not isinstance(new, tuple):
      new = (new,)
    section[last] = float(new) if isinstance(old, float) else new
  return config


def label(method: str, *, between: str = ' ') -> str:
  """The method for a picture: 'csd sampling.draws=2' is csd, then draws=2."""
  return re.sub(r' [a-z_.]+[.]', between, method)


def flat(tree: PyTree) -> Float[Array, 'P']:
  """All numbers of a tree in one vector. Beyond LARGEST they are folded by a count sketch (Charikar et al. 2002): each is
  added to one of LARGEST places with a random sign, fixed for good. Inner products keep their mean, and are off by about
  sqrt(2 / LARGEST), .3%."""
  x = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
  if x.size <= LARGEST:
    return x
  k_place, k_sign = jax.random.split(jax.random.key(0))
  place = jax.random.randint(k_place, x.shape, 0, LARGEST)
  return jnp.zeros(LARGEST).at[place].add(x * jax.random.rademacher(k_sign, x.shape, jnp.float32))


def make_nested(parts: build.Parts, *, times: int, noises: int) -> Callable:
  """(key, params, prior, text, step) -> what moments.Nested needs of one camera, in both spaces, and (t, |gradient|^2) [T E]."""
  def nested(key: Key[Array, ''], params, prior, text: Text, step):
    k_view, k_times, k_noises = jax.random.split(key, 3)
    one = jnp.arange(1)
    camera, _, keys = parts.sample(k_view, one, step)
    some = lambda key, n: jax.vmap(lambda k: jax.tree.map(lambda a: a[0], parts.sample(k, one, step)[1]))(jax.random.split(key, n))
    under, fresh = some(k_times, times), some(k_noises, times * noises)
    draws = Draws(t=jnp.repeat(under.t, noises), eps=fresh.eps, weight=jnp.repeat(under.weight, noises), key=fresh.key)
    z, cost, told, pullback = parts.picture(params['scene'], prior, text, camera, keys, step)
    told, latent = jax.tree.map(lambda a: jnp.repeat(a, times * noises, 0), (told, jax.lax.stop_gradient(z)))
    r, _ = train_step.residual(parts.estimator, draws, params['est'], prior, latent, told, step)
    grads = jax.vmap(lambda r: flat(pullback(r[None], jnp.zeros_like(cost))))(r)

    def summary(x):
      x = x.reshape(times, noises, -1)
      means = jnp.mean(x, 1)
      return {'noise': jnp.mean(jnp.sum(jnp.var(x, 1, ddof=1), -1)), 'times': jnp.sum(jnp.var(means, 0, ddof=1)),
              'mean': jnp.mean(means, 0)}
    return {'image': summary(r), 'parameter': summary(grads)}, (draws.t, jnp.sum(grads ** 2, -1))
  return nested


def make_whole(parts: build.Parts, *, views: int) -> Callable:
  """(key, params, prior, text, step) -> the gradient [P] of one step."""
  def whole(key: Key[Array, ''], params, prior, text: Text, step):
    camera, draws, keys = parts.sample(key, jnp.arange(views), step)
    return flat(parts.gradient(params, prior, text, camera, draws, keys, step)[0]['scene'])
  return whole


def subject(config: ConfigDict, method: str, *, times: int, noises: int) -> Subject:
  """`method` on the scene of `config`, its functions jitted."""
  changed = configured(config, method)
  job = build.job(changed, build.make_mesh(changed))
  plain = not any(option.startswith('sampling.') for option in method.split()[1:])
  return Subject(method, job, changed, jax.jit(make_nested(job.parts, times=times, noises=noises)) if plain else None,
                 jax.jit(make_whole(job.parts, views=changed.sampling.views)))


def learn(key: Key[Array, ''], job: build.Job, scene: PyTree, step: int, *, steps: int) -> PyTree:
  """What the job's estimator learns for itself in `steps` steps on a scene that stays as it is."""
  state = job.init(key)
  frozen = lambda state: state.replace(params={'scene': jax.tree.map(jnp.copy, scene), 'est': state.params['est']})
  state = frozen(state.replace(step=jnp.int32(step)))
  if not jax.tree.leaves(state.params['est']):
    return state.params['est']
  for _ in range(0, steps, job.stride):
    state = frozen(job.step(state, job.prior, job.text(int(state.step)))[0])
  return state.params['est']


class Measured(NamedTuple):
  """The draws of one method at one state."""
  image: moments.Nested | None
  parameter: moments.Nested | None
  power: tuple[np.ndarray, np.ndarray] | None              # (t, |gradient|^2) of each draw
  gradients: Float[np.ndarray, 'R P']                      # of whole steps
  seconds: Float[np.ndarray, 'R']


def gather(sections: list[dict], shape: tuple[int, int]) -> moments.Nested:
  """One camera's numbers of each, in arrays."""
  column = lambda name: np.array([s[name] for s in sections], np.float64)
  means = column('mean')
  return moments.Nested(column('noise'), column('times'), means @ means.T, shape)


def measure(key: Key[Array, ''], subjects: list[Subject], scene: PyTree, step: int, *, cameras: int, repeats: int, warm: int,
            shape: tuple[int, int], kept: dict[str, PyTree], say: Callable) -> dict[str, Measured]:
  """The draws of every subject at one state: `cameras` of nested ones of `shape` (T, E), `repeats` whole steps.

  `kept` holds what an estimator has learnt for itself in its run, by method; the others' learn for `warm` steps first.
  """
  k_learn, k_nested, k_whole = jax.random.split(key, 3)
  at, told, nested = jnp.int32(step), {}, {}
  for s in subjects:
    est = kept[s.name] if s.name in kept else learn(k_learn, s.job, scene, step, steps=warm)
    params = {'scene': scene, 'est': est}
    told[s.name] = params, s.job.prior, s.job.told(s.job.prompts[0]), at
    nested[s.name] = (None, None, None)
    if s.nested:
      seen = [jax.device_get(s.nested(k, *told[s.name])) for k in jax.random.split(k_nested, cameras)]
      sections, power = zip(*seen)
      nested[s.name] = (*(gather([c[space] for c in sections], shape) for space in ('image', 'parameter')),
                        tuple(np.concatenate(a) for a in zip(*power)))
    jax.block_until_ready(s.whole(k_whole, *told[s.name]))          # compiled before it is timed
    say(f'step {step}: {s.name}')
  seconds, gradients = {s.name: [] for s in subjects}, {s.name: [] for s in subjects}
  for k in jax.random.split(k_whole, repeats):           # side by side: a slow second hits all alike
    for s in subjects:
      start = time.perf_counter()
      g = jax.block_until_ready(s.whole(k, *told[s.name]))
      seconds[s.name].append(time.perf_counter() - start)
      gradients[s.name].append(np.asarray(g))
  return {s.name: Measured(*nested[s.name], np.stack(gradients[s.name]), np.array(seconds[s.name])) for s in subjects}


def compare(states: list[dict[str, Measured]]) -> dict[str, dict]:
  """{method: figures}: means over the states, geometric ones of ratios, against REFERENCE at the same states; each figure a
  moments.Interval, but for `seconds` of a step and `cost`, the same over the reference's.

  image, parameter      variance of one draw over the reference's: camera fixed in image space, free in parameter space
  camera, time, noise   shares of the parameter variance of one draw
  step                  variance of a whole step's gradient over the reference's
  relative              the same, each over its squared mean: for methods whose mean is another
  step_times_cost, relative_times_cost    the products with `cost`
  bias, cosine          |E a - E b| / |E b| and the cosine of the two mean gradients, b the reference's; 0 and 1 where unbiased
  """
  out = {}
  for name in states[0]:
    pairs = [(s[name], s[REFERENCE]) for s in states]
    out[name] = of_steps(pairs) | (of_draws(pairs) if pairs[0][0].parameter else {})
  return out


def over(figure: Callable, pairs: list) -> Callable:
  """w -> the geometric mean over the states of figure(mine, reference, w)."""
  return lambda w: float(np.exp(np.mean([np.log(figure(a, b, w)) for a, b in pairs])))


def of_draws(pairs: list[tuple[Measured, Measured]]) -> dict:
  """What nested draws say."""
  def in_image(x, w):
    split = moments.parts(x.image, w)
    return split['time'] + split['noise']
  free = lambda x, w: moments.total(x.parameter, w)
  share = lambda part: lambda w: float(np.mean([moments.parts(a.parameter, w)[part] / free(a, w) for a, _ in pairs]))
  n = len(pairs[0][0].parameter.noise)
  return {'image': moments.bootstrap(over(lambda a, b, w: in_image(a, w) / in_image(b, w), pairs), n),
          'parameter': moments.bootstrap(over(lambda a, b, w: free(a, w) / free(b, w), pairs), n),
          **{part: moments.bootstrap(share(part), n) for part in ('camera', 'time', 'noise')}}


class Whole(NamedTuple):
  """Gram matrices of whole steps [R, R]: of a method, and of its differences from the reference."""
  own: np.ndarray
  apart: np.ndarray


def of_steps(pairs: list[tuple[Measured, Measured]]) -> dict:
  """What whole steps say."""
  gram = lambda x: x.astype(np.float64) @ x.T.astype(np.float64)
  grams = [(Whole(gram(a.gradients), gram(a.gradients - b.gradients)), Whole(gram(b.gradients), None)) for a, b in pairs]
  variance = lambda x, w: moments.variance(x.own, w)
  square = lambda x, w: max(moments.squared_mean(x.own, w), np.finfo(float).tiny)
  apart = lambda x, w: moments.squared_mean(x.apart, w)
  bias = lambda w: float(np.mean([signed_root(apart(a, w) / square(b, w)) for a, b in grams]))
  cosine = lambda w: float(np.mean([                     # 2 <a, b> = |a|^2 + |b|^2 - |a - b|^2, each unbiased
    .5 * (square(a, w) + square(b, w) - apart(a, w)) / np.sqrt(square(a, w) * square(b, w)) for a, b in grams]))
  n = len(grams[0][0].own)
  step = moments.bootstrap(over(lambda a, b, w: variance(a, w) / variance(b, w), grams), n)
  relative = moments.bootstrap(over(
    lambda a, b, w: variance(a, w) / square(a, w) / (variance(b, w) / square(b, w)), grams), n)
  cost = float(np.exp(np.mean([np.log(np.median(a.seconds) / np.median(b.seconds)) for a, b in pairs])))
  times_cost = lambda interval: moments.Interval(*(cost * v for v in interval))
  return {'seconds': float(np.median([np.median(a.seconds) for a, _ in pairs])), 'cost': cost,
          'step': step, 'relative': relative, 'step_times_cost': times_cost(step), 'relative_times_cost': times_cost(relative),
          'bias': moments.bootstrap(bias, n), 'cosine': moments.bootstrap(cosine, n)}


def signed_root(v: float) -> float:
  return float(np.sign(v) * np.sqrt(abs(v)))


def best_density(states: list[dict[str, Measured]], *, t_min: float, t_max: float) -> list[float]:
  """The histogram of t that importance sampling wants: the root mean power of the reference's gradient in each of BINS bins
  (Kahn & Marshall 1953), of mean 1, and nowhere below a fifth of it, so that no weight explodes."""
  t, power = (np.concatenate([s[REFERENCE].power[i] for s in states]) for i in (0, 1))
  which = np.clip(((t - t_min) / (t_max - t_min) * BINS).astype(int), 0, BINS - 1)
  root = np.array([np.sqrt(power[which == b].mean()) if (which == b).any() else 0. for b in range(BINS)])
  q = np.maximum(root / root.mean(), .2)
  return [round(float(v), 3) for v in q / q.mean()]
