"""The laboratory's statistics against populations whose moments are known, and against their definitions."""
import numpy as np
import pytest

from jaxdreamer import moments


def nested(x):
  """moments.Nested of x [C, T, E, D], by definition."""
  times = x.mean(2)
  means = times.mean(1)
  return moments.Nested(x.var(2, ddof=1).sum(-1).mean(1), times.var(1, ddof=1).sum(-1), means @ means.T, x.shape[1:3])


def draw(rng, cameras, *, scales=(2., 1.5, .7), mean=3., dims=5, shape=(3, 2)):
  camera, time, noise = (s * rng.normal(size=(cameras, *extent, dims)) for s, extent in zip(
    scales, ((1, 1), (shape[0], 1), shape)))
  return mean + camera + time + noise


def test_parts_of_variance_and_squared_mean_are_unbiased():
  rng, ones = np.random.default_rng(0), np.ones(6)
  rows = []
  for _ in range(2000):
    x = nested(draw(rng, 6))
    rows.append([*moments.parts(x, ones).values(), moments.squared_mean(x.gram, ones)])
  rows = np.array(rows)
  want = 5. * np.array([.7 ** 2, 1.5 ** 2, 2. ** 2, 3. ** 2])
  error = rows.mean(0) - want
  assert (abs(error) < 4. * rows.std(0) / np.sqrt(len(rows))).all()


def test_a_count_of_two_is_a_camera_seen_twice_but_never_its_own_pair():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(4, 7))
  w = np.array([2., 0., 1., 1.])
  ids = np.repeat(np.arange(4), w.astype(int))
  pairs = [x[i] @ x[j] for a, i in enumerate(ids) for b, j in enumerate(ids) if i != j]
  np.testing.assert_allclose(moments.squared_mean(x @ x.T, w), np.mean(pairs))
  ones = np.ones(4)
  np.testing.assert_allclose(moments.variance(x @ x.T, ones), x.var(0, ddof=1).sum())


def test_intervals_cover_as_often_as_they_say():
  rng, hit = np.random.default_rng(2), 0
  for i in range(200):
    x = nested(draw(rng, 40, dims=20))
    interval = moments.bootstrap(lambda w: moments.total(x, w), 40, seed=i, resamples=300)
    hit += interval.lower <= 20. * (4. + 2.25 + .49) <= interval.upper
  assert .87 < hit / 200 < .995


def test_a_ratio_on_common_draws_is_known_better_than_its_parts():
  rng = np.random.default_rng(3)
  x = draw(rng, 30)
  a, b = nested(x), nested(1.1 * x + .01 * rng.normal(size=x.shape))
  ratio = moments.bootstrap(lambda w: moments.total(b, w) / moments.total(a, w), 30)
  assert ratio.mean == pytest.approx(1.21, abs=.01) and ratio.upper - ratio.lower < .01
