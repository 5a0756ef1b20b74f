"""How a refusal is told: in one line."""
import contextlib

import pytest


@contextlib.contextmanager
def refused(match, kinds=ValueError):
  """What is done within raises one of `kinds`, whose message matches and is one line; gives what
  pytest.raises does."""
  with pytest.raises(kinds, match=match) as caught:
    yield caught
  assert len(str(caught.value).splitlines()) == 1, str(caught.value)
