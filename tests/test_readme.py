"""README and the results say the same, and what README points at is there."""
import json
import re

import pytest

from benchmarks import readme, results


def test_readme_holds_the_figures_of_the_results():
  text = readme.README.read_text()
  assert readme.render(text) == text, 'run python -m benchmarks.readme'


def test_every_marker_in_readme_is_closed():
  text = readme.README.read_text()
  for kind in ('table', 'figure'):
    assert text.count(f'<!-- {kind}: ') == text.count(f'<!-- /{kind} -->')


def test_links_and_commands_in_readme_exist():
  text = readme.README.read_text()
  for target in re.findall(r'\]\((?!http)([^)#]+)', text) + re.findall(r'src="(?!http)([^"]+)"', text):
    assert (results.ROOT / target).exists(), target
  for module in re.findall(r'python -m ((?:jaxdreamer|benchmarks)[\w.]*)', text):
    assert results.ROOT.joinpath(*module.split('.')).with_suffix('.py').exists(), module
  for path in re.findall(r'(?:configs|launch|tests|jaxdreamer)/[\w/]+\.\w+', text):
    assert (results.ROOT / path).exists(), path


@pytest.fixture
def measured(tmp_path, monkeypatch):
  monkeypatch.setattr(results, 'RESULTS', tmp_path)
  results.write('speed', {'best': {'ms': 1.25}, 'rows': [{'what': 'step', 'ms': 3.14159}, {'what': 'save', 'ms': None}]},
                'python -m benchmarks.speed')
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
