"""Runs that are killed at random moments end as if nobody had; every fault of docs/faults.md is
shown by a test that there is."""
import pathlib
import re

import pytest

from benchmarks import faults

ROOT = pathlib.Path(__file__).resolve().parents[1]
KILLS = 30


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_unbroken():
  found = faults.kill(KILLS, seed=0)
  assert found['kills'] == KILLS and found['wrong'] == [] and found['kills_not_bit_equal'] == 0
  assert set(found['by_signal']) == set(faults.SIGNALS) and found['runs_that_ended'] >= 2
  at = set(found['at'])
  assert {'start', 'outputs'} <= at and at & {'steps', 'checkpoint'}, found['at']


def test_each_fault_that_the_docs_name_is_shown_by_a_test_that_there_is():
  rows = [line.split('|')[1:-1] for line in (ROOT / 'docs' / 'faults.md').read_text().splitlines()
          if line.startswith('| ')][2:]
  assert len(rows) > 20
  for fault, _, shown in rows:
    named = re.findall(r'`(test_\w+\.py)::(test_\w+)`', shown)
    assert named and len(named) == shown.count('::'), fault
    for file, test in named:
      assert f'\ndef {test}(' in (ROOT / 'tests' / file).read_text(), f'{fault}: {file}::{test}'
