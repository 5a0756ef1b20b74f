"""The laboratory's statistics against populations whose moments are known, and against their
definitions."""
import numpy as np
import pytest

from jaxdreamer import statistics


def nested(x):
  """statistics.Nested of x [C, B, T, E, D], by definition."""
  times = x.mean(3)
  renders = times.mean(2)
  means = renders.mean(1)
  return statistics.Nested(x.var(3, ddof=1).sum(-1).mean((1, 2)),
                           times.var(2, ddof=1).sum(-1).mean(1),
                        renders.var(1, ddof=1).sum(-1), (x ** 2).sum(-1).mean((1, 2, 3)),
                           means @ means.T, x.shape[1:4])


def draw(rng, cameras, *, scales=(2., 1., 1.5, .7), mean=3., dims=5, shape=(2, 3, 2)):
  extents = ((1, 1, 1), (shape[0], 1, 1), (*shape[:2], 1), shape)
  return mean + sum(s * rng.normal(size=(cameras, *extent, dims))
                    for s, extent in zip(scales, extents))


def test_parts_of_variance_and_squared_mean_are_unbiased():
  rng, ones = np.random.default_rng(0), np.ones(6)
  rows = []
  for _ in range(2000):
    x = nested(draw(rng, 6))
    rows.append([*statistics.parts(x, ones).values(), statistics.squared_mean(x.gram, ones),
                 statistics.second_moment(x, ones)])
  rows = np.array(rows)
  want = 5. * np.array([.7 ** 2, 1.5 ** 2, 1., 2. ** 2, 3. ** 2,
                        3. ** 2 + 2. ** 2 + 1. + 1.5 ** 2 + .7 ** 2])
  error = rows.mean(0) - want
  assert (abs(error) < 4. * rows.std(0) / np.sqrt(len(rows))).all()


def test_a_count_of_two_is_a_camera_seen_twice_but_never_its_own_pair():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(4, 7))
  w = np.array([2., 0., 1., 1.])
  ids = np.repeat(np.arange(4), w.astype(int))
  pairs = [x[i] @ x[j] for a, i in enumerate(ids) for b, j in enumerate(ids) if i != j]
  np.testing.assert_allclose(statistics.squared_mean(x @ x.T, w), np.mean(pairs))
  ones = np.ones(4)
  np.testing.assert_allclose(statistics.variance(x @ x.T, ones), x.var(0, ddof=1).sum())


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say():
  rng, hit = np.random.default_rng(2), 0
  for i in range(120):
    x = nested(draw(rng, 40, dims=20))
    interval = statistics.bootstrap(lambda w: statistics.total(x, w), 40, seed=i, resamples=200)
    hit += interval.lower <= 20. * (4. + 1. + 2.25 + .49) <= interval.upper
  assert .87 < hit / 120 < .995


def test_a_ratio_on_common_draws_is_known_better_than_its_parts():
  rng = np.random.default_rng(3)
  x = draw(rng, 30)
  a, b = nested(x), nested(1.1 * x + .01 * rng.normal(size=x.shape))
  ratio = statistics.bootstrap(lambda w: statistics.total(b, w) / statistics.total(a, w), 30)
  assert ratio.mean == pytest.approx(1.21, abs=.01) and ratio.upper - ratio.lower < .01


def test_students_quantiles():
  for p, freedom, expected in ((.975, 1, 12.706), (.975, 4, 2.776), (.975, 30, 2.042),
                               (.025, 4, -2.776), (.95, 9, 1.833)):
    assert statistics.student(p, freedom) == pytest.approx(expected, abs=1e-3)


def covered(make, truth, *, times=300):
  """The share of intervals that hold `truth`; make(rng) -> Interval."""
  intervals = [make(np.random.default_rng(seed)) for seed in range(times)]
  return np.mean([i.lower <= truth <= i.upper for i in intervals])


@pytest.mark.parametrize('n', [2, 3, 5, 6, 20])
def test_intervals_of_few_clusters_cover_as_often_as_those_of_many(n, monkeypatch):
  monkeypatch.setattr(statistics, 'RESAMPLES', 300)
  assert .9 < covered(lambda rng: statistics.interval(statistics.clustered(rng.normal(size=n))),
                      0.) < .99


def test_runs_of_one_prompt_are_no_independent_runs(monkeypatch):
  """Six prompts of three seeds: what prompts differ by is most of the spread, and 18 runs say no
  more of it than six."""
  monkeypatch.setattr(statistics, 'RESAMPLES', 300)
  runs = lambda rng: rng.normal(size=(6, 1)) + .3 * rng.normal(size=(6, 3))
  naive = lambda rng: (lambda x: statistics.bootstrap(lambda w: w @ x / w.sum(),
                                                      18))(runs(rng).ravel())
  by_prompt = lambda rng: statistics.interval(statistics.clustered(runs(rng).mean(1)))
  assert covered(naive, 0.) < .8 and .9 < covered(by_prompt, 0.) < .99


def test_of_one_thing_the_spread_is_not_known():
  # pairs need three, for two are one pair
  for x in (statistics.clustered([3.]), statistics.resampled(lambda w: 3., 2)):
    found = statistics.interval(x)
    assert found.mean == 3. and np.isnan(found.lower) and np.isnan(found.upper)


def test_a_product_is_as_uncertain_as_both_of_its_factors(monkeypatch):
  monkeypatch.setattr(statistics, 'RESAMPLES', 300)
  def make(rng):
    a, b = rng.normal(np.log(2.), .2, 12), rng.normal(np.log(.3), .2, 12)
    return statistics.interval(statistics.product(statistics.clustered(a, log=True),
                                                  statistics.clustered(b, seed=1, log=True)))
  assert .9 < covered(make, .6) < .99
