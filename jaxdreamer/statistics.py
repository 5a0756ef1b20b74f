"""What the variance laboratory infers from draws: NumPy in float64, on numbers small enough to
resample.

Draws are nested: C cameras, B renders of each (background color, jitter of the rays, lamp), T times
under a render, E noises under a time. A vector x_cbte (a residual, or the gradient of all
parameters) is never kept, only its means over a camera's draws, as the Gram matrix of their inner
products, and a few numbers a camera. Every estimate is a U-statistic, unbiased under independent
cameras, and takes `w` [C], how often each camera counts: all ones for the estimate, a multinomial
draw for the bootstrap (Efron 1979), zeros for the cameras of the other half.

Intervals of few things are too narrow by the bootstrap alone: all here are widened as Student's t
asks (`widening`).
"""
import functools
import statistics
from typing import Callable, NamedTuple, Sequence

import numpy as np
from jaxtyping import Float

Counts = Float[np.ndarray, 'C']
Gram = Float[np.ndarray, 'C C']
LEVEL = .95                            # of every interval
RESAMPLES = 1000


class Nested(NamedTuple):
  """The draws of one estimator: a camera's means of unbiased variances, each of the means over what
  is drawn under it."""
  noise: Counts                        # over the noises of a time
  times: Counts                        # over the times of a render
  renders: Counts                      # over the renders of the camera
  square: Counts                       # mean of |x|^2
  gram: Gram                           # <x_c, x_c'> of the cameras' means
  shape: tuple[int, int, int]          # (B, T, E)


class Interval(NamedTuple):
  mean: float
  lower: float
  upper: float


class Estimate(NamedTuple):
  """A figure before it becomes an interval: its value, its values on resampled draws, and whether
  they are logarithms."""
  point: float
  values: Float[np.ndarray, 'R']
  log: bool


def gather(cameras: list[dict], shape: tuple[int, int, int]) -> Nested:
  """The draws of one estimator from what variance_lab.make_nested tells of each camera."""
  column = lambda name: np.array([s[name] for s in cameras], np.float64)
  means = column('mean')
  return Nested(*(column(name) for name in ('noise', 'times', 'renders', 'square')),
                means @ means.T, shape)


def squared_mean(gram: Gram, w: Counts) -> float:
  """|E x|^2: the mean of <x_c, x_c'> over pairs of different cameras."""
  pairs = w @ gram @ w - (w * w) @ np.diag(gram)
  return pairs / (w.sum() ** 2 - (w * w).sum())


def variance(gram: Gram, w: Counts) -> float:
  """Trace of the covariance of x_c."""
  return w @ np.diag(gram) / w.sum() - squared_mean(gram, w)


def relative_variance(gram: Gram, w: Counts) -> float:
  """Trace of the covariance of x_c over |E x|^2."""
  return variance(gram, w) / max(squared_mean(gram, w), np.finfo(float).tiny)


def parts(x: Nested, w: Counts) -> dict[str, float]:
  """The law of total variance, one level after another, as traces, for one draw:
  Var x = Var_c E[x | c] + E Var_b E[x | c, b] + E Var_t E[x | c, b, t] + E Var[x | c, b, t]."""
  renders, times, noises = x.shape
  mean = lambda values: w @ values / w.sum()
  noise, time, render = mean(x.noise), mean(x.times), mean(x.renders)
  return {'noise': noise, 'time': time - noise / noises, 'render': render - time / times,
          'camera': variance(x.gram, w) - render / renders}


def total(x: Nested, w: Counts) -> float:
  """The variance of one draw: the sum of its parts."""
  return sum(parts(x, w).values())


def second_moment(x: Nested, w: Counts) -> float:
  """E |x|^2 of one draw: its variance and its squared mean."""
  return w @ x.square / w.sum()


def student(p: float, freedom: int) -> float:
  """Quantile of Student's t: the density of the angle atan(t / sqrt(freedom)) is cos^(freedom - 1)
  of it."""
  angle = np.linspace(-np.pi / 2., np.pi / 2., 100_001)
  density = np.cos(angle) ** (freedom - 1)
  below = np.concatenate([np.zeros(1), np.cumsum(density[1:] + density[:-1])])
  return float(np.sqrt(freedom) * np.tan(np.interp(p, below / below[-1], angle)))


@functools.cache
def widening(n: int, level: float) -> float:
  """By how much an interval from resamples of `n` must be wider. Of the spread of their mean the
  bootstrap finds sqrt((n - 1) / n), and its quantiles are a normal distribution's, not Student's:
  of five things, 1.6 in all (Hesterberg 2015)."""
  normal = statistics.NormalDist().inv_cdf(.5 + .5 * level)
  return student(.5 + .5 * level, n - 1) / normal * np.sqrt(n / (n - 1.))


def resampled(statistic: Callable[[Counts], float], n: int, *, seed: int = 0,
              resamples: int | None = None, level: float = LEVEL,
              log: bool = False, least: int = 2) -> Estimate:
  """`statistic` of all `n`, and its widened values on resamples of `least` different ones or more,
  as pairs need. The same seed resamples alike, so that what shares its draws is compared on the
  same ones. NaN where there are no resamples to learn from."""
  point, resamples = float(statistic(np.ones(n))), resamples or RESAMPLES
  if n <= least:
    return Estimate(point, np.full(resamples, np.nan), log)
  counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1. / n), resamples).astype(float)
  values = np.array([statistic(w) for w in counts if (w > 0).sum() >= least])
  return Estimate(point, point + widening(n, level) * (values - point), log)


def clustered(values: Sequence[float] | np.ndarray, *, seed: int = 0,
              log: bool = False) -> Estimate:
  """The mean of one value a cluster, such as a prompt, whose runs are more alike than those of two.
  The clusters are resampled, and nothing within them: what varies there is in the differences of
  their means already (Davison & Hinkley 1997, 3.8)."""
  values = np.asarray(values, np.float64)
  return resampled(lambda w: w @ values / w.sum(), len(values), seed=seed, log=log, least=1)


def product(a: Estimate, b: Estimate) -> Estimate:
  """Of two figures in logarithms that were resampled independently."""
  n = min(len(a.values), len(b.values))
  return Estimate(a.point + b.point, a.values[:n] + b.values[:n], True)


def interval(x: Estimate, *, level: float = LEVEL) -> Interval:
  """The percentile interval."""
  lower, upper = np.quantile(x.values, [.5 - .5 * level, .5 + .5 * level])
  numbers = (x.point, min(lower, x.point), max(upper, x.point)) if np.isfinite(lower) else (
      x.point, lower, upper)
  return Interval(*(float(np.exp(v) if x.log else v) for v in numbers))


def bootstrap(statistic: Callable[[Counts], float], n: int, *, seed: int = 0,
              resamples: int | None = None,
              level: float = LEVEL) -> Interval:
  """`statistic` of all `n` cameras and its interval."""
  return interval(resampled(statistic, n, seed=seed, resamples=resamples, level=level), level=level)


def middle(values: Float[np.ndarray, 'n'], w: Counts) -> float:
  """The median, each value counted `w` times."""
  return float(np.median(np.repeat(values, w.astype(int))))
