"""What the laboratory says of methods: costs, clusters and halves against draws whose truth is
known."""
import numpy as np
import pytest

from jaxdreamer import comparison, statistics


def state(rng, methods, *, draws=20, dims=30, scale=1., mean=.5):
  """{method: Measured} of whole steps alone: gradients of the standard deviation that `methods`
  gives them, on common numbers."""
  common = rng.normal(size=(draws, dims))
  gradients = {name: mean + scale * of * (common + .1 * rng.normal(size=common.shape))
               for name, of in methods.items()}
  first = next(iter(gradients.values()))
  gram = lambda x: x @ x.T
  return {name: comparison.Measured(None, None, None, gram(g), gram(3. * g), gram(g - first))
          for name, g in gradients.items()}


def timed(rng, methods, *, rounds=12, noise=.05):
  """Seconds by round: a slow round is one for all, and a hiccup hits whom it will."""
  slow = np.exp(.3 * rng.normal(size=rounds))
  return {name: of * slow * np.exp(noise * rng.normal(size=rounds))
          * (1. + 3. * (rng.random(rounds) < .05))
          for name, of in methods.items()}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
  monkeypatch.setattr(statistics, 'RESAMPLES', 200)


@pytest.mark.slow
def test_the_interval_of_a_cost_covers_the_truth_through_hiccups():
  hit, widths = 0, []
  for seed in range(200):
    seconds = timed(np.random.default_rng(seed), {'sds': .2, 'vsd': .34})
    cost = statistics.interval(comparison.estimate([comparison.cost_of(seconds, 'vsd', 'sds')],
                                                   seed=1))
    hit += cost.lower <= 1.7 <= cost.upper
    widths.append(cost.upper - cost.lower)
  assert .9 < hit / 200 <= 1. and np.median(widths) < .3


def test_what_is_chosen_on_one_half_is_reported_without_its_luck():
  """Twelve methods that are all alike: the least of all is below 1 by luck, and its other half is
  not."""
  names = {'sds': 1.} | {str(i): 1. for i in range(12)}
  lucky, reported = [], []
  for seed in range(60):
    rng = np.random.default_rng(seed)
    # no common numbers: luck is large
    fresh = {name: state(rng, {name: 1.})[name] for name in names}
    figure = {name: [comparison.figures([fresh], name, 'sds')['step']] for name in names
              if name != 'sds'}
    half = lambda name, i, figure=figure: value(figure[name], half=i)
    chosen = min(figure, key=lambda name: half(name, 0))
    lucky.append(half(chosen, 0))
    reported.append(half(chosen, 1))
  error = np.std(reported) / np.sqrt(len(reported))
  assert np.mean(lucky) < -3. * error and abs(np.mean(reported)) < 3. * error


def value(figures, *, half):
  places = np.arange(figures[0].n) % 2 == half
  return figures[0].of(places.astype(float))


def test_halves_are_every_second_step_and_round_and_best_takes_them():
  rng = np.random.default_rng(0)
  methods = {'sds': 1., 'quiet': .5, 'csd': .3, 'csd quiet': .2}
  over = {'sds': 'sds', 'quiet': 'sds', 'csd': 'csd', 'csd quiet': 'csd'}
  seen, seconds = state(rng, methods), timed(rng, {'sds': .2, 'quiet': .3, 'csd': .2,
                                                   'csd quiet': .2})
  rows = comparison.compare([[seen]], seconds, over)
  for half, name in enumerate(('first_half', 'other_half')):
    step = value([comparison.figures([seen], 'quiet', 'sds')['step']], half=half)
    cost = np.median(np.log(seconds['quiet'] / seconds['sds'])[half::2])
    assert rows['quiet'][name].mean == pytest.approx(np.exp(step + cost))
  found = comparison.best(comparison.plain(rows))
  assert set(found) == {'sds', 'csd'} and found['sds']['name'] == 'quiet' and found['csd'][
      'name'] == 'csd quiet'
  assert found['sds'] == {'name': 'quiet', 'of': 2, **rows['quiet']['other_half']._asdict()}
  # against its own mean's first, not sds
  assert rows['csd']['step'].mean == rows['csd']['preconditioned'].mean == 1.
  assert rows['csd quiet']['step'].mean == pytest.approx(4. / 9., rel=.1) and rows['csd quiet'][
      'over'] == 'csd'
  assert rows['csd quiet']['cost'].mean == pytest.approx(
      np.exp(np.median(np.log(seconds['csd quiet'] / seconds['sds']))))


def test_the_best_of_a_mean_that_only_one_method_has_is_not_told():
  rows = [{'method': m, 'over': o, 'first_half': {'mean': 1.}, 'other_half': {'mean': 1.}}
          for m, o in (('sds', 'sds'), ('asd', 'asd'))]
  assert comparison.best(rows) == {}


def test_figures_of_several_prompts_are_clustered_by_prompt():
  """Prompts differ by far more than draws: an interval from the draws of all would be too narrow by
  half or more."""
  ratios = (.5, .7, .9, 1.1, 1.4)
  rng = np.random.default_rng(1)
  prompts = [[state(rng, {'sds': by, 'x': by * ratio}, draws=40) for by in (1., 2.)]
             for ratio in ratios]
  over, seconds = {'sds': 'sds', 'x': 'sds'}, timed(rng, {'sds': 1., 'x': 1.})
  together = comparison.compare(prompts, seconds, over)['x']['step']
  alone = comparison.compare(prompts[2:3], seconds, over)['x']['step']
  logs = np.log(np.square(ratios))
  each = [row['step'] for states in prompts for row in comparison.of_prompt(states, over)
          if row['method'] == 'x']
  assert together.mean == pytest.approx(np.exp(np.log(each).mean()))
  assert together.mean == pytest.approx(np.exp(logs.mean()), rel=.03)
  half = 2.776 * logs.std(ddof=1) / np.sqrt(5)                                      # Student's own
  assert np.log(together.upper / together.mean) == pytest.approx(half, rel=.25)
  assert np.log(together.upper / together.lower) > 4. * np.log(alone.upper / alone.lower)


def test_the_worst_step_is_told_with_its_second_moment():
  row = lambda mean, **more: {'method': 'ssd', 'over': 'sds',
                              'parameter': {'mean': mean, 'lower': .8, 'upper': 1.},
                              'second_moment': {'mean': .99}, **more}
  states = [{'step': 0, 'rows': [row(.9)]}, {'step': 50, 'rows': [row(.97)]},
            {'step': 200, 'rows': [row(.95)]}]
  assert comparison.worst(states, 'ssd') == {'mean': .97, 'lower': .8, 'upper': 1., 'step': 50,
                                             'over': 'sds',
                                             'second_moment': {'mean': .99}}
  assert comparison.worst(states, 'vsd') is None
  # against itself it says nothing
  assert comparison.worst([{'step': 0, 'rows': [row(1., over='ssd')]}], 'ssd') is None
