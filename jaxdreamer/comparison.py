"""What the variance laboratory says of methods side by side: ratios, shares and the best of one
mean, from what it drew.

A state is {method: Measured}, at one step of the run of one prompt; the first method of the first
state is the reference. Figures are means over the steps, of ratios geometric ones. With one prompt
their intervals come from its draws, and say how well these figures of this prompt are known; with
several from the prompts, and say how well those of prompts like these are.
"""
from functools import partial
from typing import Callable, NamedTuple

import numpy as np

from jaxdreamer import statistics
from jaxdreamer.statistics import Estimate, Gram, Interval, Nested

State = dict[str, 'Measured']
LEAST = 1e-9  # of the mean square: a squared mean that chance makes negative is taken for this
SHARES = ('camera', 'render', 'time', 'noise')


class Measured(NamedTuple):
  """The draws of one method at one state; of whole steps the Gram matrices [R, R] of their
  gradients alone."""
  image: Nested | None
  parameter: Nested | None
  power: tuple[np.ndarray, np.ndarray] | None              # (t, |gradient|^2) of each nested draw
  own: Gram
  scaled: Gram                         # as Adam divides them
  apart: Gram                          # of their differences from the reference's


class Figure(NamedTuple):
  """A number of `n` draws: w [n] -> its value, or the value's logarithm."""
  of: Callable
  n: int
  log: bool


def figures(states: list[State], name: str, over: str) -> dict[str, Figure]:
  """{figure: Figure} of method `name` at the states of one prompt; what compares variances holds it
  against `over`, which has the same mean.

  image, parameter      variance of one draw: camera and render fixed in image space, all free in
                        parameter space
  second_moment         of one draw in parameter space: the variance and the squared mean
  camera, render, time, noise   shares of the parameter variance of one draw
  step                  variance of a whole step's gradient
  preconditioned        of the same as Adam divides it
  signal                squared mean of a step's gradient over its own variance, compared with
                        nothing
  bias, cosine          |E a - E b| / |E b| and the cosine of the two mean gradients, b the
                        reference's; 0 and 1 where unbiased
  """
  reference = next(iter(states[0]))
  rows = [(s[name], s[over], s[reference]) for s in states]
  ratio = lambda f: lambda w: float(np.mean([np.log(f(a, w) / f(b, w)) for a, b, _ in rows]))
  mean = lambda f: lambda w: float(np.mean([f(a, c, w) for a, _, c in rows]))
  of_steps = partial(Figure, n=len(rows[0][0].own))
  square = lambda gram, w: max(statistics.squared_mean(gram, w),
                               LEAST * (w @ np.diag(gram)) / w.sum())
  apart = lambda a, w: statistics.squared_mean(a.apart, w)
  out = {
    'step': of_steps(ratio(lambda x, w: statistics.variance(x.own, w)), log=True),
    'preconditioned': of_steps(ratio(lambda x, w: statistics.variance(x.scaled, w)), log=True),
    'signal': of_steps(mean(lambda a, c, w: statistics.squared_mean(a.own, w) / statistics.variance(
        a.own, w)), log=False),
    'bias': of_steps(mean(lambda a, c, w: signed_root(apart(a, w) / square(c.own, w))), log=False),
    'cosine': of_steps(mean(lambda a, c, w: (  # 2 <a, b> = |a|^2 + |b|^2 - |a - b|^2, each unbiased
      .5 * (square(a.own, w) + square(c.own, w) - apart(a, w)) / np.sqrt(square(a.own, w) * square(
          c.own, w)))), log=False)}
  if not rows[0][0].parameter:
    return out
  of_draws = partial(Figure, n=len(rows[0][0].parameter.noise))
  share = lambda part: lambda a, c, w: statistics.parts(a.parameter,
                                                        w)[part] / statistics.total(a.parameter, w)
  if rows[0][1].parameter:
    out |= {'image': of_draws(ratio(in_image), log=True),
            'parameter': of_draws(ratio(lambda x, w: statistics.total(x.parameter, w)), log=True),
            'second_moment': of_draws(ratio(lambda x, w: statistics.second_moment(x.parameter, w)),
                                      log=True)}
  return out | {part: of_draws(mean(share(part)), log=False) for part in SHARES}


def in_image(x: Measured, w) -> float:
  """What t and eps make of the variance of one draw of the residual."""
  split = statistics.parts(x.image, w)
  return split['time'] + split['noise']


def signed_root(v: float) -> float:
  """sqrt |v| with v's sign: an estimate of a square may fall below 0."""
  return float(np.sign(v) * np.sqrt(abs(v)))


def estimate(by_prompt: list[Figure], *, half: int | None = None, seed: int = 0) -> Estimate:
  """One figure of all prompts: from all draws, or from every second one, the first (0) or the
  second (1) of each two."""
  def of(figure):
    places = np.arange(figure.n)[slice(half, None, 1 if half is None else 2)]
    def at(w):
      whole = np.zeros(figure.n)
      whole[places] = w
      return figure.of(whole)
    return at, len(places)
  if len(by_prompt) == 1:
    at, n = of(by_prompt[0])
    return statistics.resampled(at, n, seed=seed, log=by_prompt[0].log)
  return statistics.clustered([at(np.ones(n)) for at, n in map(of, by_prompt)], seed=seed,
                              log=by_prompt[0].log)


def cost_of(seconds: dict[str, np.ndarray], name: str, over: str) -> Figure:
  """Seconds of a step over another's: the middle one of the rounds' ratios, in each of which both
  had their turn."""
  ratio = np.log(seconds[name] / seconds[over])
  return Figure(partial(statistics.middle, ratio), len(ratio), True)


def compare(prompts: list[list[State]], seconds: dict[str, np.ndarray],
            over: dict[str, str]) -> dict[str, dict]:
  """{method: {figure: Interval}}, from each prompt's states and the seconds of each round; `over`
  says what each is held against.

  Beside those of `figures`: `seconds` of a step; `cost`, the same over the reference's;
  step_times_cost and preconditioned_times_cost, the products with the seconds over those of `over`;
  and `first_half` and `other_half`, the first of these from every second step and round, and from
  the rest.
  """
  reference, out = next(iter(prompts[0][0])), {}
  for name in prompts[0][0]:
    by_prompt = [figures(states, name, over[name]) for states in prompts]
    of = lambda figure, by_prompt=by_prompt, **options: estimate([f[figure] for f in by_prompt],
                                                                 **options)
    cost = lambda name=name, **options: estimate([cost_of(seconds, name, over[name])],
                                                 seed=1, **options)
    spent = Figure(partial(statistics.middle, np.log(seconds[name])), len(seconds[name]), True)
    found = {figure: of(figure) for figure in by_prompt[0]}
    found |= {f'{figure}_times_cost': statistics.product(found[figure], cost())
              for figure in ('step', 'preconditioned')}
    found |= {half: statistics.product(of('step', half=i), cost(half=i))
              for i, half in enumerate(('first_half', 'other_half'))}
    found |= {'seconds': estimate([spent], seed=1),
              'cost': estimate([cost_of(seconds, name, reference)], seed=1)}
    out[name] = {'over': over[name]} | {figure: statistics.interval(x)
                                        for figure, x in found.items()}
  return out


def of_prompt(states: list[State], over: dict[str, str]) -> list[dict]:
  """Rows of {figure: its value} of one prompt, a row a method: what the intervals over prompts are
  made of."""
  rows = []
  for name in states[0]:
    found = {figure: statistics.interval(Estimate(of.of(np.ones(of.n)), np.full(1, np.nan),
                                                  of.log)).mean
             for figure, of in figures(states, name, over[name]).items()}
    rows.append({'method': name, 'over': over[name], **found})
  return rows


def best(rows: list[dict]) -> dict[str, dict]:
  """{what they are held against: the best of the methods of one mean}, of rows as written: the
  least step_times_cost on one half of the steps and rounds, its figure from the other half, so that
  the luck by which it was chosen is in no number. A mean that one method alone has is left out."""
  out = {}
  for over in dict.fromkeys(row['over'] for row in rows):
    alike = [row for row in rows if row['over'] == over]
    if len(alike) > 1:
      least = min(alike, key=lambda row: row['first_half']['mean'])
      out[over] = {'name': least['method'], 'of': len(alike), **least['other_half']}
  return out


def worst(states: list[dict], method: str) -> dict | None:
  """One draw's variance in parameter space of a method at the step where it is greatest against
  what it is held against, and the second moment there; None where that was not measured."""
  at = [(state['step'], row) for state in states for row in state['rows']
        if row['method'] == method != row['over'] and 'parameter' in row]
  if not at:
    return None
  step, row = max(at, key=lambda pair: pair[1]['parameter']['mean'])
  return {**row['parameter'], 'step': step, 'over': row['over'],
          'second_moment': row['second_moment']}


def plain(rows: dict[str, dict]) -> list[dict]:
  """Rows of `compare` as they are written."""
  return [{'method': name, **{k: v._asdict() if isinstance(v, Interval) else v
                              for k, v in row.items()}}
          for name, row in rows.items()]
