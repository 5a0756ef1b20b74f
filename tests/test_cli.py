"""What the command line answers to a slip."""
import pathlib

import pytest

from jaxdreamer import cli

CONFIG = str(pathlib.Path(__file__).parents[1] / 'configs' / 'toybox.py')


@pytest.mark.parametrize(('option', 'nearest'), [
  ('sampling.viewz', 'sampling.views'), ('estimator.sds.guidence', 'estimator.sds.guidance'), ('promt', 'prompt')])
def test_an_unknown_option_is_answered_with_the_nearest_ones(option, nearest):
  for file in (CONFIG, f'{CONFIG}:empirical'):
    said = cli.unknown_options(['train', f'--config={file}', f'--config.{option}=3'])
    assert f'--config.{option}' in said and f'--config.{nearest}' in said and '\n' not in said


def test_known_options_are_not_complained_about():
  assert cli.unknown_options(['train', f'--config={CONFIG}', '--config.prompt=a red cube', '--config.steps=3']) == ''
