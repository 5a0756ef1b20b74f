"""CSD and ASD: the algebra that ties them to SDS, and their expectations under the Gaussian
prior."""
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from configs import toybox as toybox_config
from jaxdreamer import build, cameras, checks
from jaxdreamer.conditioning import condition
from jaxdreamer.diffusion import perp_neg_texts
from jaxdreamer.estimators.asd import asd
from jaxdreamer.estimators.csd import csd
from jaxdreamer.estimators.sds import sds
from jaxdreamer.estimators.ssd import ssd
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.types import Text

MEAN, NULL, STD, N = .4, -.3, .5, 100_000
PRIOR = gaussian(jnp.full((1, 1, 1), MEAN), std=STD, null_mean=jnp.full((1, 1, 1), NULL))


def residual(estimator, *, n=64, t=.4, z=.2, t_min=.02, **options):
  return oracle.residual(estimator, PRIOR, oracle.draws(jnp.full(n, t), t_min=t_min), z, **options)


def test_sds_is_the_conditional_term_plus_scale_minus_one_times_csd():
  one, five = (residual(sds(guidance=s)) for s in (1., 5.))
  np.testing.assert_allclose(five, one + 4. * residual(csd()), rtol=1e-4, atol=1e-6)


def test_csd_is_its_closed_form_whatever_the_noise():
  b, alpha, _ = oracle.gain(PRIOR, STD, .4)
  np.testing.assert_allclose(residual(csd()), b * alpha * (NULL - MEAN), rtol=1e-4)


def test_a_negative_prompt_takes_over_from_the_empty_one():
  half = csd(omega2=.5)
  # the negative prompt is the empty one
  np.testing.assert_allclose(residual(half), residual(csd()), rtol=1e-5)
  # the prompt itself
  np.testing.assert_allclose(residual(half, negative=1.), .5 * residual(csd()), rtol=1e-4)


def test_a_normalized_residual_has_length_one_and_the_same_direction():
  several = gaussian(jax.random.normal(jax.random.key(1), (2, 2, 3)), std=STD,
                     null_mean=jnp.zeros((2, 2, 3)))
  d = oracle.draws(jnp.linspace(.1, .9, 8), shape=(2, 2, 3), weight=jnp.arange(1., 9.))
  z = jax.random.normal(jax.random.key(3), d.eps.shape)
  of = lambda **kw: oracle.residual(csd(**kw), several, d, z).reshape(8, -1)
  plain, unit = of(), of(normalize=True)
  # the draws' own weight is kept
  np.testing.assert_allclose(np.linalg.norm(unit, axis=1), d.weight, rtol=1e-4)
  np.testing.assert_allclose(unit / np.linalg.norm(unit, axis=1, keepdims=True),
                             plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-5)
  assert csd(normalize=True).weight == 'uniform' and csd().weight is None      # w(t) has no say
  alike = gaussian(jnp.zeros((2, 2, 3)), std=STD)
  assert np.isfinite(csd(normalize=True).residual(d, (), alike, z, oracle.views(8), 0)[0]).all()


@pytest.mark.slow
def test_perp_neg_of_csd_leads_away_as_seen_from_the_negative_prompt():
  """Predictions are the texts themselves, so that the formula of the released code can be written
  down."""
  rows = {name: jnp.array(row)[None, None] for name, row in (
    ('front', [1., 0., 2.]), ('side', [0., 1., -1.]), ('back', [2., 1., 0.]),
    ('above', [0., 0., 1.]), ('null', [.5, .5, 0.]),
    ('negative', [-1., 2., 1.]))}
  prior = PRIOR.replace(eps_fn=lambda weights, z_t, t, text, camera: jnp.broadcast_to(
      text[:, None], (len(t), 1, 1, 3)))
  camera = jax.tree.map(lambda a: a[None], cameras.orbital(1., .2, 2., .7))
  words = jnp.stack([rows[name][0] for name in ('front', 'side', 'back', 'above')])
  views = condition(Text(words, rows['front'][0], rows['null'][0], rows['negative'][0]), camera,
                    perp_neg=3.)
  z = jnp.zeros((1, 1, 1, 3))
  one = oracle.draws(jnp.full(1, .4), shape=(1, 1, 3))
  text, others, weights = map(np.asarray, perp_neg_texts(words, camera.azimuth[0],
                                                         camera.elevation[0]))
  for share, base in ((.25, 'negative'), (0., 'null')):
    y, null, away = text[0], np.ravel(rows['null']), np.ravel(rows['negative'])
    direction = y - np.ravel(rows[base])
    expected = y + (share - 1.) * null - share * away
    for other, weight in zip(others[:, 0], 3. * weights):
      off = other - np.ravel(rows[base])
      expected = expected + weight * (off - off @ direction / (direction @ direction) * direction)
    r, _ = csd(omega2=share).residual(one, (), prior, z, views, 0)
    np.testing.assert_allclose(np.ravel(r), expected, rtol=1e-5)


def test_asd_without_a_shift_is_csd_times_scale_minus_one():
  still = asd(guidance=5., eta=0.)
  np.testing.assert_allclose(residual(still), 4. * residual(csd()), rtol=1e-3, atol=1e-6)


GUIDED = {'sds': sds(guidance=5.), 'asd': asd(guidance=5.), 'ssd': ssd(guidance=5.)}


@pytest.mark.parametrize('estimator', GUIDED.values(), ids=GUIDED.keys())
def test_guidance_away_from_the_prompt_itself_is_none(estimator):
  run = lambda negative, prior=PRIOR: oracle.residual(
    estimator, prior, oracle.draws(jnp.full(64, .4), t_min=.02), .2,
    estimator.init(jax.random.key(0), prior), negative=negative)
  alone = gaussian(jnp.full((1, 1, 1), MEAN), std=STD)           # no prompt changes its prediction
  np.testing.assert_allclose(run(1.), run(0., alone), rtol=1e-4, atol=1e-5)
  assert np.abs(run(1.) - run(0.)).max() > .01


@pytest.mark.slow
@pytest.mark.parametrize('estimator', [*GUIDED.values(), csd()], ids=[*GUIDED.keys(), 'csd'])
def test_perp_neg_leaves_plain_guidance_where_nothing_is_denied(estimator):
  """From above and straight at the front Perp-Neg denies nothing."""
  text = Text(jnp.linspace(-1., 1., 4)[:, None, None], *jnp.zeros((3, 1, 1)))
  camera = jax.vmap(lambda a, e: cameras.orbital(a, e, 3., .7))(jnp.array([0., 0.]),
                                                                jnp.array([1.4, 0.]))
  prior = gaussian(jnp.full((1, 1, 1), MEAN), std=STD)
  prior = prior.replace(eps_fn=lambda w, z_t, t, text, camera: z_t * .1 + text[:, :, :, None] ** 2)
  def of(scale):
    views = condition(text, camera, perp_neg=scale)
    est = estimator.init(jax.random.key(0), prior)
    drawn = oracle.draws(jnp.full(2, .4), t_min=.02)
    return estimator.residual(drawn, est, prior, jnp.full((2, 1, 1, 1), .2), views, 0)[0]
  np.testing.assert_allclose(of(.5), of(0.), rtol=1e-4)


@pytest.mark.slow
def test_the_expectation_of_asd_is_its_closed_form():
  t, t_min, eta, scale, z = .6, .1, .3, 4., -.9
  r = residual(asd(guidance=scale, eta=eta), n=N, t=t, z=z, t_min=t_min)
  b, alpha, _ = oracle.gain(PRIOR, STD, t)
  later = t + eta * (t - t_min) * (jnp.arange(10_000) + .5) / 10_000
  later_b, later_alpha, _ = oracle.gain(PRIOR, STD, later)
  guided_mean = NULL + scale * (MEAN - NULL)
  exact = b * alpha * (z - guided_mean) - jnp.mean(later_b * later_alpha * (z - MEAN))
  assert abs(float(r.mean() - exact)) < 3. * float(r.std()) / N ** .5


def test_the_later_time_stays_below_one():
  seen = []
  spy = PRIOR.replace(eps_fn=lambda weights, z_t, t, text, camera: seen.append(t) or 0. * z_t)
  drawn = oracle.draws(jnp.linspace(.5, .98, 500), t_min=.02)
  oracle.residual(asd(guidance=1., eta=5.), spy, drawn, 0.)
  t, _, later = jnp.split(seen[0], 3)
  assert (later >= t).all() and later.max() <= .999 + 1e-6 and later.max() > .99


@pytest.mark.parametrize('name, option, value', [('csd', 'omega2', (.5,))])
def test_what_lacks_a_negative_prompt_is_refused(name, option, value):
  config = toybox_config.get_config()
  config.estimator.name = name
  config.estimator[name][option] = value
  with pytest.raises(ValueError, match='config.negative_prompt is empty'):
    checks.check(config, build.make_mesh(config))
