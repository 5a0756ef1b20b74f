"""The examples do what they say, and the notebook is the script."""
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import diffusion, sampling, types
from jaxdreamer.estimators.sds import sds
from jaxdreamer.priors import gaussian

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / 'examples'


@pytest.fixture(autouse=True)
def found(monkeypatch):
  monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.mark.slow
def test_noise_free_distillation_is_guided_prediction_less_what_the_negative_prompt_finds():
  import nfsd
  n, prior = 64, gaussian.gaussian(jnp.full((2, 2, 1), .4), std=.5, null_mean=jnp.zeros((2, 2, 1)))
  one, zero = jnp.ones((n, 1, 1)), jnp.zeros((n, 1, 1))
  z = jnp.full((n, 2, 2, 1), .3)
  u = jax.random.uniform(jax.random.key(0), (n, 1))
  draws = sampling.draws(jax.random.key(1), u, jnp.arange(n), t_min=.02, t_max=.98, shape=(2, 2, 1))
  views = types.Views(None, one, one, zero, one)                # the negative prompt is the prompt
  r, _ = nfsd.nfsd(scale=5., switch=.3).residual(draws, (), prior, z, views, 0)
  z_t = diffusion.diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
  found = jnp.where(draws.t[:, None, None, None] < .3, 0., prior.eps(z_t, draws.t, one, None))
  of_sds, _ = sds(guidance=5.).residual(
    draws, (), prior, z, views._replace(negative=zero), 0)
  np.testing.assert_allclose(r, of_sds + draws.eps - found, atol=1e-5)


def test_a_metaball_is_as_dense_as_its_formula_says_and_wears_its_color():
  import metaballs
  scene = metaballs.metaballs(balls=2, radius=.2, strength=30., level=8.)
  params = scene.init(jax.random.key(0)) | {
    'center': jnp.array([[.5, 0., 0.], [-.5, 0., 0.]]), 'color': jnp.eye(2, 3)}
  density, color = scene.field(scene.prepare(params, None), jnp.array([.5, 0., .2]))
  assert density == pytest.approx(np.log1p(np.exp(30. * np.exp(-.5) - 8.)), rel=1e-4)
  np.testing.assert_allclose(color, jax.nn.sigmoid(4. * jnp.eye(2, 3)[0]), atol=1e-3)
  turned = jax.tree.map(lambda leaf: leaf[::-1], params)
  np.testing.assert_allclose(scene.field(turned, jnp.array([.1, .1, 0.]))[0],
                             scene.field(params, jnp.array([.1, .1, 0.]))[0], rtol=1e-5)


@pytest.mark.slow
def test_the_prior_of_discs_predicts_the_score_of_its_pictures():
  import discs
  prior = discs.discs(size=8, count=3)
  text = prior.embed('a green ball').plain
  images = prior.weights['images'][3:6]                         # those of the second color
  z_t, t = jax.random.normal(jax.random.key(0), (8, 8, 3)), jnp.float32(.6)
  alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)

  def log_density(z_t):
    square = jnp.sum((z_t[None] - alpha * images) ** 2, (1, 2, 3))
    return jax.nn.logsumexp(-.5 * square / sigma ** 2)
  eps, = prior.eps(z_t[None], t[None], text[None], None)
  np.testing.assert_allclose(eps, -sigma * jax.grad(log_density)(z_t), atol=1e-5)
  with pytest.raises(ValueError, match='name one of red, green, blue'):
    prior.embed('a teapot')


def test_the_notebook_is_the_script():
  import notebook
  assert (EXAMPLES / 'first_object.ipynb').read_text() == notebook.notebook(), (
    'run python examples/notebook.py')
  source = (EXAMPLES / 'first_object.py').read_text()
  code = [cell['source'] for cell in notebook.cells(source) if cell['cell_type'] == 'code']
  assert len(code) > 3 and all(part in source for part in code)
  compile('\n'.join(code), 'notebook', 'exec')


@pytest.mark.slow
def test_importing_the_package_imports_no_jax_and_every_public_name_is_there():
  said = subprocess.run([sys.executable, '-c', '''
import sys
import jaxdreamer
print(*{'jax', 'flax', 'numpy', 'optax'} & set(sys.modules))
for name in jaxdreamer.__all__:
  getattr(jaxdreamer, name)
'''], capture_output=True, text=True, timeout=120, check=True)
  assert said.stdout.strip() == ''
