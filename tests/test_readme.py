"""README and docs say the same as the results; their links, commands and code blocks work."""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types as python_types

import jax
import jax.numpy as jnp
import oracle
import pytest
from absl import flags
from ml_collections import config_flags

from benchmarks import readme, results
from jaxdreamer import build, cli, cli_help, diffusion, options, sampling, types
from jaxdreamer.priors import gaussian

ROOT = results.ROOT
WORDS = [*readme.PAGES, ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md']
OWN = ROOT / 'docs' / 'your_estimator.md'      # its first part is of one estimator, `plain`
every_page = pytest.mark.parametrize('page', WORDS, ids=lambda page: page.name)
MARKER = r'<!-- (?:figure|table): (\S+)'


def test_the_pages_hold_the_figures_of_the_results():
  for page in readme.PAGES:
    assert readme.render(page.read_text()) == page.read_text(), (
      f'{page}: run python -m benchmarks.readme')


def test_every_marker_is_closed_and_every_figure_stands_once():
  found = []
  for page in readme.PAGES:
    text = page.read_text()
    found += re.findall(MARKER, text)
    for kind in ('table', 'figure'):
      assert text.count(f'<!-- {kind}: ') == text.count(f'<!-- /{kind} -->'), page
    # Markdown would begin a paragraph there
    assert not re.search(r'^ {0,3}<!-- /?figure', text, re.MULTILINE), page
  assert len(found) == len(set(found)), {name for name in found if found.count(name) > 1}


def test_readme_is_short():
  assert len(readme.README.read_text().splitlines()) <= 130


@every_page
def test_links_and_paths_exist(page):
  text = page.read_text()
  for target in re.findall(r'\]\((?!http)([^)#]+)', text):
    assert (page.parent / target).exists(), target
  for module in re.findall(r'python -m ((?:jaxdreamer|benchmarks)[\w.]*)', text):
    assert ROOT.joinpath(*module.split('.')).with_suffix('.py').exists(), module
  for path in re.findall(r'\b(?:configs|launch|tests|jaxdreamer|examples)/[\w/]+\.\w+', text):
    assert (ROOT / path).exists(), path


def commands(text):
  """(module, arguments) of the lines that are indented or fenced as commands."""
  blocks = re.findall(r'^(?:    .*\n)+', text, re.MULTILINE)
  blocks += re.findall(r'```bash\n(.*?)```', text, re.DOTALL)
  for line in '\n'.join(blocks).replace('\\\n', ' ').splitlines():
    words = shlex.split(line, comments=True) if re.search('python -m|launch/local', line) else []
    if words[:2] == ['bash', 'launch/local.sh']:
      yield 'jaxdreamer.train', ['--config=configs/toybox.py', *words[2:]]
    elif words[:2] == ['python', '-m'] and re.match('jaxdreamer|benchmarks', words[2]):
      yield words[2], words[3:]


def test_a_line_of_commands_is_read():
  text = "a\n\n    python -m jaxdreamer.train --config=a.py \\\n      --config.b='c d'   # e\n\nf\n"
  assert list(commands(text)) == [('jaxdreamer.train', ['--config=a.py', '--config.b=c d'])]


def refuse(module, arguments):
  """Raises for a flag that the command's source does not name, and for an option of the config
  that is not there or takes another value."""
  source = ROOT.joinpath(*module.split('.')).with_suffix('.py').read_text()
  if 'cli.moved_flags()' in source:
    source += "'prior' 'tokenizer' 'tokenizer_2'"
  if 'cli.asset_flags(' in source:
    source += "'faces' 'texture'"
  given = [word.partition('=')[0].lstrip('-') for word in arguments]
  for name in given:
    known = 'cli.config_flag()' in source if name.split('.')[0] == 'config' else (
      f"'{name}'" in source or f"'--{name}'" in source)
    if not known:
      raise ValueError(f'{module} has no --{name}')
  if 'config' in given:
    wrong = cli_help.unknown_options(arguments)
    assert not wrong, wrong
    sys.argv = ['command', *(word for word in arguments if word.startswith('--config'))]
    parsed = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=parsed)
    parsed['config'].parser = cli.ConfigFile()               # as cli.config_flag does
    parsed(sys.argv)
    options.check(parsed.config)


OLD = pytest.mark.filterwarnings('ignore:the load_module')           # ml_collections'


@OLD
@every_page
def test_the_options_of_every_command_are_taken(page, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(sys, 'argv', ['command'])
  monkeypatch.setattr(sys, 'path', list(sys.path))
  for module, arguments in commands(page.read_text()):
    refuse(module, arguments)


@OLD
@pytest.mark.parametrize('arguments', [
  ['--wrkdir=a'], ['--config=configs/toybox.py', '--config.stepz=3'],
  ['--config=configs/toybox.py', '--config.steps=-3']])
def test_a_wrong_command_is_found(arguments, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['command'])
  with pytest.raises((ValueError, AssertionError, SystemExit)):
    refuse('jaxdreamer.train', arguments)


@pytest.mark.slow
def test_the_docs_build_without_a_warning(tmp_path):
  mkdocs = shutil.which('mkdocs') or pytest.skip("mkdocs is not installed: pip install '.[docs]'")
  done = subprocess.run([mkdocs, 'build', '--strict', f'--site-dir={tmp_path}'], cwd=ROOT,
                        capture_output=True, text=True, timeout=300,
                        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'})
  assert done.returncode == 0, done.stderr[-2000:]
  for page in readme.PAGES[1:]:
    name = '' if page.stem == 'index' else page.stem
    assert 'figure:' not in re.sub('<!--.*?-->', '', (tmp_path / name / 'index.html').read_text())


# what would take a minute takes seconds
SMALL = {"'a red cube', 60": "'a red cube', 2"}


def included(text):
  """The text with the files that it includes, as pymdownx.snippets does."""
  return re.sub(r'--8<-- "(.*?)"', lambda m: (ROOT / m[1]).read_text(), text)


def run_blocks(text):
  """The names that its python blocks define, run one after the other."""
  names = {'jnp': jnp, 'diffuse': diffusion.diffuse, 'Estimator': types.Estimator}
  for code in re.findall(r'```python\n(.*?)```', included(text), flags=re.DOTALL):
    for whole, small in SMALL.items():
      code = code.replace(whole, small)
    exec(code, names)
  return names


def has_python(page):
  return '```python' in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize('page', [
  pytest.param(page, marks=pytest.mark.slow if 'first_object.py"' in page.read_text() else ())
  for page in WORDS if has_python(page)], ids=lambda page: page.name)
def test_every_python_block_runs(page, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  run_blocks(page.read_text())


def test_what_would_take_a_minute_is_made_small():
  text = ''.join(included(page.read_text()) for page in WORDS)
  assert all(text.count(whole) == 1 for whole in SMALL)


def test_the_config_in_docs_takes_an_estimator_of_its_own(monkeypatch):
  names = run_blocks(OWN.read_text().split('\n## ')[0])
  mine = lambda *, scale: names['plain'](scale=scale)
  monkeypatch.setitem(sys.modules, 'mymodule', python_types.SimpleNamespace(mine=mine))
  config = names['get_config']()
  config.lock()                                    # as the command line does
  config.sampling.views, config.mesh.data = 1, 1
  options.check(config)
  assert config.estimator.mine.scale == 2.
  training = build.training(config, build.make_mesh(config))
  assert training.parts.estimator.init(None, None) == ()
  assert training.parts.estimator.loss() == 0.


def test_the_estimator_in_docs_meets_the_closed_form_whatever_the_density_of_t():
  names = run_blocks(OWN.read_text().split('\n## ')[0])
  n, std = 20_000, .5
  prior = gaussian.gaussian(jnp.full((1, 1, 1), -.2), std=std)
  u = jax.random.uniform(jax.random.key(0), (n, 1))
  draws = sampling.draws(jax.random.key(1), u, jnp.arange(n), t_min=.02, t_max=.98, shape=(1, 1, 1),
                         density=(4., 1., .25))
  r = oracle.residual(names['plain'](scale=2.), prior, draws, .3)
  t = jnp.linspace(.02, .98, 1001)
  b, alpha, _ = oracle.gain(prior, std, t)
  expected = jnp.mean(2. * b * alpha * .5)
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
