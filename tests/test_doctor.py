"""What doctor says of the versions that are installed."""
import configparser
import pathlib

import pytest

from jaxdreamer import doctor

SETUP = pathlib.Path(__file__).resolve().parents[1] / 'setup.cfg'


@pytest.mark.parametrize(('there', 'tested', 'newer'), [
  ('0.12.0.1', '0.12.0.1', False), ('0.12.1', '0.12.0.1', True), ('0.9.9', '0.12.0.1', False),
  ('0.13.0.dev2+g1', '0.12.0.1', True), ('0.12.0', '0.12.0.1', False), ('3.13.7', '3.13', False),
  ('3.14.0rc1', '3.13', True),
  ('10.0', '9.5', True), ('missing', '1', False)])
def test_versions_are_compared_by_their_numbers(there, tested, newer):
  assert doctor.newer(there, tested) == newer


def test_doctor_says_what_is_newer_than_the_tests_have_seen(monkeypatch):
  monkeypatch.setattr(doctor, 'version', doctor.TESTED.get)
  assert 'newer than tested' not in doctor.installed()
  monkeypatch.setattr(doctor, 'version', lambda package: {'jax': '1.0.3', 'python': '3.99.1'}.get(
      package, doctor.TESTED[package]))
  said = doctor.installed()
  assert said['newer than tested'] == (f'python 3.99.1 (to {doctor.TESTED["python"]}), '
                                       f'jax 1.0.3 (to {doctor.TESTED["jax"]})')
  assert said['jax'] == '1.0.3'


def test_tested_versions_are_of_what_is_required_and_no_older():
  options = configparser.ConfigParser()
  options.read(SETUP)
  least = {name.replace('-', '_'): bound for name, _, bound in (
    (line + ' >= 0').split()[:3]
    for line in options['options']['install_requires'].strip().splitlines())}
  for package, tested in doctor.TESTED.items():
    if package not in ('python', 'jaxlib'):
      assert not doctor.newer(least[package.replace('-', '_')], tested), package
