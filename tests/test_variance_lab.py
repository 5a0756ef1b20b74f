"""The variance laboratory against closed forms under the Gaussian prior, and what it makes of a
method's text."""
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

from configs import base
from jaxdreamer import (
  cameras,
  comparison,
  method_texts,
  optim,
  parallel,
  profiling,
  sampling,
  statistics,
  train_step,
  variance,
  variance_lab,
)
from jaxdreamer.estimators.sds import sds
from jaxdreamer.estimators.ssd import ssd
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.scenes.image import image, picture
from jaxdreamer.training import Parts
from jaxdreamer.types import TrainState

SIZE, STD, VIEWS, B2 = 4, .5, 2, .99
SHAPE = (SIZE, SIZE, 3)
ONE = 1.
PRIOR = gaussian(jnp.full(SHAPE, .3), std=STD)
RANGES = dict(azimuth=(-1., 1.), elevation=(0., 1.), distance=(3., 3.), fov=(.7, .7))


def parts(estimator, *, draws=1, design=sampling.independent, times=(.2, .8),
          render=lambda code, key: picture(code)):
  scene = image(size=SIZE, squash=False)
  render_latents = train_step.make_render_latents(
    scene=scene, regularize=lambda rendering, step: jnp.zeros(()),
    render=lambda code, camera, key, step: render(code, key))
  sample = sampling.make_sample(
    design=design, camera_from=partial(cameras.from_uniform, **RANGES), views=VIEWS, dims=draws,
    draw=sampling.make_draw(noise=PRIOR.schedule, t_min=times[0], t_max=times[1], shape=SHAPE))
  tx = optim.chain((('.*', .01),), b2=B2)
  built = Parts(estimator, sample, render_latents,
                train_step.make_gradient(render_latents=render_latents, estimator=estimator), tx)
  return built, {'scene': scene.init(jax.random.key(0)),
                 'est': estimator.init(jax.random.key(1), PRIOR)}


def nested_draws(built, params, *, cameras, renders=2):
  nested = jax.jit(variance_lab.make_nested(built, renders=renders, times=3, noises=2))
  seen = [jax.device_get(nested(k, params, PRIOR, PRIOR.embed(''), 0))
          for k in jax.random.split(jax.random.key(2), cameras)]
  sections, power = zip(*seen)
  return [statistics.gather([s[space] for s in sections], (renders, 3, 2))
          for space in ('image', 'parameter')], power


MESH = jax.make_mesh((1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,),
                     devices=jax.devices()[:1])


def subject(name, built, params, *, mean='sds'):
  """A Method without a config but for its optimizer's."""
  nested = jax.jit(variance_lab.make_nested(built, renders=2, times=3, noises=2))
  training = SimpleNamespace(prior=PRIOR, init=lambda key: SimpleNamespace(params=params))
  config = SimpleNamespace(optim=SimpleNamespace(b2=B2, eps=1e-15), negative_prompt='')
  return variance_lab.Method(name, training, config, nested, mean,
                             *variance_lab.make_step(built, MESH, views=VIEWS))


def measured(subjects, *, cameras=30, repeats=40, v=None):
  scene = parts(sds(guidance=ONE))[1]['scene']
  return variance_lab.measure(jax.random.key(2), subjects, '', scene, v, 0, cameras=cameras,
                              repeats=repeats, warm=0, shape=(2, 3, 2),
                            kept={}, before={}, say=lambda what: None)[0]


def noise_gain(t):
  """d r / d eps of SDS at guidance 1: w (d eps_hat / d eps - 1)."""
  b, _, sigma = oracle.gain(PRIOR, STD, t)
  return sigma ** 2 * (b * sigma - 1.)


def test_the_noise_part_is_its_closed_form_and_a_picture_has_no_camera_part():
  (image, parameter), _ = nested_draws(*parts(sds(guidance=ONE)), cameras=200)
  t = jnp.linspace(.2, .8, 10_001)
  want = SIZE * SIZE * 3 * float(jnp.mean(noise_gain(t) ** 2))
  got = statistics.bootstrap(lambda w: statistics.parts(image, w)['noise'], 200)
  assert got.lower <= want <= got.upper and got.upper - got.lower < .2 * want
  # In image space of the identity the gradient is the residual, and neither camera nor render moves
  # anything.
  for part in ('camera', 'render'):
    found = statistics.bootstrap(lambda w, part=part: statistics.parts(parameter, w)[part], 200)
    assert found.lower <= 0. <= found.upper
  np.testing.assert_allclose(parameter.noise, image.noise, rtol=1e-4)


@pytest.mark.slow
def test_the_share_of_the_render_is_its_closed_form_where_only_the_background_is_random():
  shown, n, t = .6, 150, .5                      # z = .6 x + .4 of a color drawn anew, at one t
  def render(code, key):
    return picture(shown * code + (1. - shown) * jax.random.uniform(key, (3,))[None, None])
  (_, parameter), _ = nested_draws(*parts(sds(guidance=ONE), times=(t, t), render=render),
                                   cameras=n, renders=3)
  b, alpha, sigma = oracle.gain(PRIOR, STD, t)
  slope = sigma ** 2 * b * alpha                 # of the residual in z
  want = {'camera': 0., 'render': (shown * slope * (1. - shown)) ** 2 / 12., 'time': 0.,
          'noise': (shown * noise_gain(t)) ** 2}
  for part, each in want.items():
    found = statistics.bootstrap(lambda w, part=part: statistics.parts(parameter, w)[part], n)
    assert found.lower <= SIZE * SIZE * 3 * each <= found.upper, (part, found)
  share = statistics.bootstrap(lambda w: statistics.parts(parameter, w)['render']
                               / statistics.total(parameter, w), n)
  assert share.lower > .1 and share.upper - share.lower < .1


@pytest.mark.slow
def test_comparing_a_method_with_itself_and_with_a_better_one(monkeypatch):
  monkeypatch.setattr(statistics, 'RESAMPLES', 200)
  reference = subject('sds', *parts(sds(guidance=ONE)))
  spread = subject('spread', *parts(sds(guidance=ONE), design=sampling.stratified,
                                    draws=4))._replace(nested=None)
  raw = ssd(guidance=ONE, mu='learned')
  raw = raw._replace(init=lambda key, prior: {'mu': jnp.zeros((10, 1, 1, 1, 1))})
  subjects = [reference, reference._replace(name='same'), spread, subject('raw', *parts(raw))]
  names = [s.name for s in subjects]
  seconds = {name: np.full(8, .5) for name in names} | {'spread': np.linspace(.9, 1.1, 8)}
  rows = comparison.compare([[measured(subjects)]], seconds, dict.fromkeys(names, 'sds'))
  same = rows['same']
  for figure in ('step', 'preconditioned', 'parameter', 'second_moment', 'cosine', 'cost'):
    assert list(same[figure]) == pytest.approx([1.] * 3), figure
  assert same['bias'].mean == same['bias'].upper == 0.
  assert rows['spread']['step'].upper < .5 and rows['spread']['preconditioned'].upper < .6
  cost = rows['spread']['cost']
  assert cost.mean == pytest.approx(2., rel=.02) and cost.lower < 2. < cost.upper
  product = rows['spread']['step_times_cost']
  assert product.mean == pytest.approx(rows['spread']['step'].mean * cost.mean)
  assert product.upper / product.lower > rows['spread']['step'].upper / rows['spread']['step'].lower
  for name in ('spread', 'raw'):                 # other draws, and another variate: the same mean
    assert rows[name]['bias'].lower <= 0. <= rows[name]['bias'].upper or rows[name][
        'bias'].mean < .1, rows[name]['bias']
  assert rows['raw']['parameter'].lower > 1.     # without its noise term SDS varies more
  # the squared mean is in both
  assert rows['raw']['second_moment'].mean < rows['raw']['parameter'].mean
  assert sum(rows['sds'][part].mean for part in comparison.SHARES) == pytest.approx(1.)


@pytest.mark.slow
def test_what_is_timed_is_the_train_step_with_what_the_estimator_learns():
  learning = sds(guidance=ONE)._replace(
    init=lambda key, prior: jnp.ones((48, 48)),
    loss=lambda draws, est, prior, z, views, step: jnp.mean((z.reshape(-1, 48) @ est @ est) ** 2))
  built, params = parts(learning)
  begin, step = variance_lab.make_step(built, MESH, views=VIEWS)
  local_step = train_step.make_local_step(sample=built.sample, gradient=built.gradient, tx=built.tx)
  trained = parallel.data_parallel(local_step, MESH)
  key, rest = jax.random.key(7), (PRIOR, PRIOR.embed(''))
  state = TrainState(jnp.int32(3), jax.tree.map(jnp.copy, params), built.tx.init(params),
                     jax.random.key(7))
  flops = lambda compiled: compiled.cost_analysis()['flops']
  of_train = flops(trained.lower(state, *rest, jnp.arange(VIEWS)).compile())
  compiled = step.lower(begin(key, params, 3), *rest).compile()
  assert flops(compiled) == pytest.approx(of_train, rel=.01)
  assert flops(compiled) > flops(variance_lab.make_step(parts(sds(guidance=ONE))[0], MESH,
                                                        views=VIEWS)[1].lower(
# the loss and its gradient, at the least
begin(key, params, 3), *rest).compile()) + 4 * 2 * VIEWS * 48 * 48
  after, _ = step(begin(key, params, 3), *rest)
  expected, _ = trained(state, *rest, jnp.arange(VIEWS))
  jax.tree.map(np.testing.assert_array_equal, after.params, expected.params)
  camera, draws, keys = built.sample(jax.random.fold_in(key, 3), jnp.arange(VIEWS), 3)
  gradient, _ = built.gradient(params, *rest, camera, draws, keys, 3)
  jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), after.opt[1], gradient)


def test_methods_take_turns_in_an_order_drawn_anew():
  calls = []
  turns = {name: partial(calls.append, name) for name in 'abcd'}
  seconds = profiling.by_turns(jax.random.key(0), turns, rounds=12)
  rounds = [tuple(calls[i:i + 4]) for i in range(0, 48, 4)]
  assert all(sorted(order) == list('abcd') for order in rounds) and len(set(rounds)) > 6
  assert all(len(of) == 12 and min(of) >= 0. for of in seconds.values())


def test_a_turn_goes_on_from_the_step_before():
  s = subject('sds', *parts(sds(guidance=ONE)))
  seen = []
  counted = s._replace(step=lambda state, prior, text: seen.append(int(state.step))
                       or s.step(state, prior, text))
  spent = variance_lab.take_time(jax.random.key(0), [counted], '',
                                 parts(sds(guidance=ONE))[1]['scene'], {'sds': ()}, 5, rounds=2)
  assert seen == list(range(5, 6 + 2 * variance_lab.TURN)) and spent['sds'].shape == (2,) and (
      spent['sds'] > 0.).all()


def test_an_estimator_goes_on_learning_from_the_state_before():
  counting = sds(guidance=ONE)._replace(init=lambda key, prior: jnp.zeros(3),
                                        loss=lambda draws, est, *_: jnp.sum(est))
  built, params = parts(counting)
  s = subject('sds', built, params)
  learn = lambda est, steps: variance_lab.learn(jax.random.key(0), s, est, params['scene'],
                                                PRIOR.embed(''), 0, steps=steps)
  # Adam's steps of .01 down a slope of one
  np.testing.assert_allclose(learn(None, 5), -5 * .01, rtol=1e-4)
  np.testing.assert_allclose(learn(learn(None, 5), 7), -12 * .01, rtol=1e-4)


def test_adams_v_is_that_of_the_runs_optimizer():
  params = {'scene': {'a': jnp.ones(3), 'b': jnp.ones(2)}, 'est': {'c': jnp.ones(4)}}
  tx = optim.chain((('scene/a', .1), ('est/.*', .1, 'sgd'), ('.*', .2)), b2=B2)
  state = TrainState(jnp.int32(0), params, tx.init(params), jax.random.key(0))
  assert optim.adam_v(state, B2) is None
  v = {'a': 0., 'b': 0.}
  for i in range(1, 4):
    g = jax.tree.map(lambda p, i=i: i * p, params)
    _, opt = tx.update(g, state.opt, params)
    state = state.replace(opt=opt)
    v = {name: B2 * v[name] + (1. - B2) * i ** 2 for name in v}
  found = optim.adam_v(state, B2)
  for name in v:
    np.testing.assert_allclose(found[name], v[name] / (1. - B2 ** 3), rtol=1e-5)
  one, two = ({'count': jnp.array(n), 'nu': {'scene': {'a': x, 'b': x}}}
              for n, x in ((3, jnp.ones(4)), ([3, 1], jnp.ones((2, 4)))))
  as_adam = lambda of: optax.ScaleByAdamState(of['count'], (), of['nu'])
  # particles count their own updates
  of_two = optim.adam_v(state.replace(opt=as_adam(two)), B2)['a']
  np.testing.assert_allclose(of_two[0], optim.adam_v(state.replace(opt=as_adam(one)), B2)['a'],
                             rtol=1e-5)
  np.testing.assert_allclose(of_two[1], 1. / (1. - B2), rtol=1e-5)
  plain = TrainState(jnp.int32(3), params, optim.chain((('.*', .1, 'sgd'),)).init(params),
                     jax.random.key(0))
  assert optim.adam_v(plain, B2) is None


def test_what_adam_divides_by_is_bounded_and_else_the_root_of_v():
  g = {'a': jnp.array([3., -2., .5]), 'b': jnp.array([0.])}
  large = jax.tree.map(lambda g: jnp.full_like(g, 1e8), g)
  jax.tree.map(lambda u, g: np.testing.assert_allclose(u, g / 1e4, rtol=1e-2),
               variance_lab.divided(g, large, .99, 1e-15), g)
  # never seen before: 1 / sqrt(1 - b2)
  none = variance_lab.divided(g, jax.tree.map(jnp.zeros_like, g), .99, 1e-15)
  np.testing.assert_allclose(none['a'], [10., -10., 10.], rtol=1e-5)
  assert none['b'] == 0.


@pytest.mark.slow
def test_the_preconditioned_variance_is_that_of_divided_gradients():
  s = subject('sds', *parts(sds(guidance=ONE)))
  # one number counts for nearly all
  lopsided = {'image': jnp.ones((SIZE, SIZE, 3)).at[0, 0, 0].set(1e-6) * 1e6}
  scaled = measured([s], cameras=3, repeats=40, v=lopsided)['sds']
  plain = measured([s], cameras=3, repeats=40, v=jax.tree.map(lambda v: jnp.full_like(v, 1e6),
                                                              lopsided))['sds']
  ones = np.ones(40)
  np.testing.assert_allclose(plain.scaled, plain.own / (B2 * 1e6), rtol=1e-3)
  each = statistics.variance(plain.own, ones) / plain.own.shape[0]
  assert each > 0. and statistics.variance(scaled.scaled,
                                           ones) > 50. * statistics.variance(plain.scaled, ones)
  np.testing.assert_array_equal(scaled.own, plain.own)


def test_the_best_density_follows_the_power_of_the_gradient():
  _, power = nested_draws(*parts(sds(guidance=ONE)), cameras=300)
  density = sampling.best_density(*(np.concatenate(a) for a in zip(*power)), t_min=.2, t_max=.8)
  assert np.mean(density) == pytest.approx(1., abs=.01) and min(density) > 0.
  t = jnp.linspace(.2, .8, sampling.BINS * 100).reshape(sampling.BINS, -1)
  b, alpha, sigma = oracle.gain(PRIOR, STD, t)
  z = parts(sds(guidance=ONE))[1]['scene']['image']
  force = sigma ** 2 * b * alpha
  root = jnp.sqrt(jnp.mean(force ** 2 * jnp.sum((z - .3) ** 2) + z.size * noise_gain(t) ** 2, 1))
  np.testing.assert_allclose(density, root / root.mean(), rtol=.15)


@pytest.mark.parametrize('method, other, alike', [
  ('sds', 'ssd estimator.ssd.phi=constant,depth estimator.ssd.mu=moments', True),
  ('sds', 'ssd estimator.ssd.form=printed', False),
  ('sds', 'ssd estimator.ssd.guidance=7', False),
  ('sds estimator.sds.guidance=7', 'ssd estimator.ssd.guidance=7', True),
  ('sds', 'sds sampling.design=lattice sampling.draws=4 sampling.antithetic=True '
   'sampling.density=1,2 sampling.views=8', True),
  ('sds', 'sds sampling.t_max=.8', False), ('sds', 'csd', False),
  ('csd', 'csd sampling.draws=2', True),
  ('csd', 'csd sampling.weight=uniform', False), ('sds', 'sds negative_prompt="a grey cube"',
                                                       False),
])
def test_which_methods_have_one_mean(method, other, alike):
  of = lambda text: method_texts.mean_of(method_texts.configured(base.get_config(), text))
  assert (of(method) == of(other)) == alike


def test_an_options_text_may_hold_spaces():
  changed = method_texts.configured(base.get_config(), 'csd negative_prompt="a grey cube"')
  assert changed.negative_prompt == 'a grey cube'


def test_a_methods_text_changes_the_config_and_nothing_else():
  method = 'ssd estimator.ssd.phi=constant,depth estimator.ssd.guidance=5 sampling.draws=4'
  config = method_texts.configured(base.get_config(), method)
  assert config.estimator.name == 'ssd' and config.estimator.ssd.phi == ('constant', 'depth')
  assert config.estimator.ssd.guidance == (
      5,) and config.sampling.draws == 4 and config.sampling.design == 'independent'
  assert method_texts.configured(base.get_config(),
                                 'ssd estimator.ssd.phi=depth').estimator.ssd.phi == ('depth',)
  assert base.get_config().sampling.design == 'stratified'
  for wrong in ('sds sampling.drawn=3', 'sds estimator.ssd.phi.x=1', 'sds nothing=1'):
    with pytest.raises(ValueError, match='--methods'):
      method_texts.configured(base.get_config(), wrong)


def test_a_picture_names_a_method_by_the_last_names_of_its_options():
  method = 'csd sampling.draws=2 sampling.weight=uniform sampling.t_min=.2'
  assert method_texts.label(method) == 'csd draws=2 weight=uniform t_min=.2'
  assert method_texts.label(method, between='\n').splitlines() == ['csd', 'draws=2',
                                                                   'weight=uniform', 't_min=.2']


def test_large_gradients_are_folded_without_changing_inner_products(monkeypatch):
  a, b = (jax.random.normal(k, (30_000,)) for k in jax.random.split(jax.random.key(4)))
  exact = jnp.dot(a + b, a)
  monkeypatch.setattr(variance_lab, 'LARGEST', 8192)
  folded = jnp.dot(variance_lab.flat({'x': a[:7], 'y': a[7:]}) + variance_lab.flat(b),
                   variance_lab.flat(a))
  assert abs(folded / exact - 1.) < 4. * (2. / 8192) ** .5


def test_several_prompts_are_named_or_the_configs_own():
  config = base.get_config()
  assert variance.chosen_prompts('', config) == ['a red cube']
  assert variance.chosen_prompts('a red car; a blue torus;',
                                 config) == ['a red car', 'a blue torus']
  config.prior.name = 'empirical'
  with pytest.raises(ValueError, match='--prompts'):
    variance.chosen_prompts('a red car; a blue torus', config)


def test_progress_says_how_long_it_still_takes(monkeypatch, capsys):
  clock = iter((0., 60., 120.))
  monkeypatch.setattr(variance.time, 'time', lambda: next(clock))
  say = variance.progress(4)
  say('one')
  say('two')
  assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
    '60 s  [1/4] one; about 3.0 min left', '120 s  [2/4] two; about 2.0 min left']


def test_each_method_stands_against_the_first_of_its_mean():
  of = lambda name, mean: variance_lab.Method(name, None, None, None, mean, None, None)
  assert variance.against([of('sds', 'a'), of('csd', 'b'), of('ssd', 'a'),
                           of('csd draws=2', 'b')]) == {
'sds': 'sds', 'csd': 'csd', 'ssd': 'sds', 'csd draws=2': 'csd'}
