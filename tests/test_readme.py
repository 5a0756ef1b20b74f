"""README and the results say the same, and what README points at is there."""
import json
import re
import sys
import types as python_types

import jax
import jax.numpy as jnp
import pytest

from benchmarks import readme, results
from jaxdreamer import build, diffusion, options, sampling, train_step, types
from jaxdreamer.priors import gaussian


def test_readme_holds_the_figures_of_the_results():
  text = readme.README.read_text()
  assert readme.render(text) == text, 'run python -m benchmarks.readme'


def test_every_marker_in_readme_is_closed():
  text = readme.README.read_text()
  for kind in ('table', 'figure'):
    assert text.count(f'<!-- {kind}: ') == text.count(f'<!-- /{kind} -->')


def test_links_and_commands_in_readme_exist():
  text = readme.README.read_text()
  for target in re.findall(r'\]\((?!http)([^)#]+)',
                           text) + re.findall(r'src="(?!http)([^"]+)"', text):
    assert (results.ROOT / target).exists(), target
  for module in re.findall(r'python -m ((?:jaxdreamer|benchmarks)[\w.]*)', text):
    assert results.ROOT.joinpath(*module.split('.')).with_suffix('.py').exists(), module
  for path in re.findall(r'(?:configs|launch|tests|jaxdreamer)/[\w/]+\.\w+', text):
    assert (results.ROOT / path).exists(), path


def run_blocks(page):
  """The names that the python blocks of a page define, run one after the other."""
  names = {'jnp': jnp, 'diffuse': diffusion.diffuse, 'Estimator': types.Estimator}
  for code in re.findall(r'```python\n(.*?)```', page.read_text(), flags=re.DOTALL):
    exec(code, names)
  return names


PAGES = [readme.README, *sorted(results.ROOT.glob('docs/**/*.md'))]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_python_block_runs(page):
  run_blocks(page)


def test_the_config_in_readme_takes_an_estimator_of_its_own(monkeypatch):
  names = run_blocks(readme.README)
  mine = lambda *, scale: names['plain'](scale=scale)
  monkeypatch.setitem(sys.modules, 'mymodule', python_types.SimpleNamespace(mine=mine))
  config = names['get_config']()
  config.lock()                                    # as the command line does
  config.sampling.views, config.mesh.data = 1, 1
  options.check(config)
  assert config.estimator.mine.scale == 2.
  job = build.job(config, build.make_mesh(config))
  assert job.parts.estimator.init(None, None) == () and job.parts.estimator.loss() == 0.


def test_the_estimator_in_readme_meets_the_closed_form_whatever_the_density_of_t():
  names = run_blocks(readme.README)
  n, std = 20_000, .5
  z, text, prior = jnp.full((n, 1, 1, 1), .3), jnp.ones((n, 1, 1)), gaussian.gaussian(
      jnp.full((1, 1, 1), -.2), std=std)
  u = jax.random.uniform(jax.random.key(0), (n, 1))
  draws = sampling.draws(jax.random.key(1), u, jnp.arange(n), t_min=.02, t_max=.98, shape=(1, 1, 1),
                         density=(4., 1., .25))
  r, _ = train_step.residual(names['plain'](scale=2.), draws, (), prior, z,
                             types.Views(None, text, text, text, text), 0)
  t = jnp.linspace(.02, .98, 1001)
  alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
  expected = jnp.mean(2. * sigma * alpha * .5 / (alpha ** 2 * std ** 2 + sigma ** 2))
  assert abs(r.mean() - expected) < 4 * r.std() / n ** .5 < .05


@pytest.fixture
def measured(tmp_path, monkeypatch):
  monkeypatch.setattr(results, 'RESULTS', tmp_path)
  rows = [{'what': 'step', 'ms': 3.14159}, {'what': 'save', 'ms': None}]
  results.write('speed', {'best': {'ms': 1.25}, 'rows': rows}, 'python -m benchmarks.speed')
  return tmp_path


def test_a_table_is_made_of_rows_and_says_how_it_was_made(measured):
  text = readme.render('a\n<!-- table: speed -->\nstale\n<!-- /table -->\nb\n')
  assert '| what | ms |\n| --- | ---: |\n| step | 3.14 |\n| save | - |' in text
  assert 'stale' not in text and '`python -m benchmarks.speed`' in text
  assert text.startswith('a\n') and text.endswith('<!-- /table -->\nb\n')
  assert readme.render(text) == text


def test_a_figure_is_taken_by_its_path_and_format(measured):
  text = readme.render('in <!-- figure: speed.best.ms .1f -->9<!-- /figure --> ms')
  assert text == 'in <!-- figure: speed.best.ms .1f -->1.2<!-- /figure --> ms'
  assert '-->-<!--' in readme.render('<!-- figure: nothing.at_all -->9<!-- /figure -->')


def test_results_say_how_to_make_them_again(measured):
  made = json.loads((measured / 'speed.json').read_text())['made']
  assert set(made) == {'command', 'commit', 'versions', 'device', 'date'}
  assert made['versions']['jax'] and made['device']


def test_results_refuse_nan(measured):
  with pytest.raises(ValueError):
    results.write('bad', {'iou': float('nan')}, 'none')
