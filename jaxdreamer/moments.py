"""What the variance laboratory infers from draws: NumPy in float64, on numbers small enough to resample.

Draws are nested: C cameras, T times under each, E noises under each time. A vector x_cte (a residual, or the gradient of all
parameters) is never kept, only its means over a camera's draws, as the Gram matrix of their inner products, and two numbers a
camera. Every estimate is a U-statistic, unbiased under independent cameras, and takes `w` [C], how often each camera counts:
all ones for the estimate, a multinomial draw for the bootstrap (Efron 1979).
"""
from typing import Callable, NamedTuple

import numpy as np
from jaxtyping import Float

Counts = Float[np.ndarray, 'C']


class Nested(NamedTuple):
  """The draws of one estimator."""
  noise: Float[np.ndarray, 'C']        # mean over times of the variance over noises, unbiased
  times: Float[np.ndarray, 'C']        # variance over times of the mean over noises, unbiased
  gram: Float[np.ndarray, 'C C']       # <x_c, x_c'> of the cameras' means
  shape: tuple[int, int]               # (T, E)


class Interval(NamedTuple):
  mean: float
  lower: float
  upper: float


def squared_mean(gram: Float[np.ndarray, 'C C'], w: Counts) -> float:
  """|E x|^2: the mean of <x_c, x_c'> over pairs of different cameras."""
  pairs = w @ gram @ w - (w * w) @ np.diag(gram)
  return pairs / (w.sum() ** 2 - (w * w).sum())


def variance(gram: Float[np.ndarray, 'C C'], w: Counts) -> float:
  """Trace of the covariance of x_c."""
  return w @ np.diag(gram) / w.sum() - squared_mean(gram, w)


def relative_variance(gram: Float[np.ndarray, 'C C'], w: Counts) -> float:
  """Trace of the covariance of x_c over |E x|^2."""
  return variance(gram, w) / max(squared_mean(gram, w), np.finfo(float).tiny)


def parts(x: Nested, w: Counts) -> dict[str, float]:
  """The law of total variance, Var x = Var_c E[x | c] + E Var_t E[x | c, t] + E Var[x | c, t], as traces, for one draw."""
  times, noises = x.shape
  mean = lambda values: w @ values / w.sum()
  noise = mean(x.noise)
  time = mean(x.times) - noise / noises
  return {'noise': noise, 'time': time, 'camera': variance(x.gram, w) - mean(x.times) / times}


def total(x: Nested, w: Counts) -> float:
  return sum(parts(x, w).values())


def bootstrap(statistic: Callable[[Counts], float], n: int, *, seed: int = 0, resamples: int = 1000,
              level: float = .95) -> Interval:
  """`statistic` of all `n` cameras, and the percentile interval of its values on resampled ones, of two cameras at least. The
  same seed resamples alike, so that what shares its draws is compared on the same ones. Of one camera it is not known: NaN."""
  if n < 2:
    return Interval(float(statistic(np.ones(n))), np.nan, np.nan)
  counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1. / n), resamples).astype(float)
  values = [statistic(w) for w in counts if w.max() < n]
  lower, upper = np.quantile(values, [.5 - .5 * level, .5 + .5 * level])
  return Interval(float(statistic(np.ones(n))), float(lower), float(upper))
