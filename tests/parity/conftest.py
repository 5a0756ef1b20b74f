import pytest


@pytest.fixture
def torch_side(recwarn):
  """make_golden.py, where torch, diffusers and transformers are installed; their own warnings are
  not ours to fix."""
  for name in ('torch', 'diffusers', 'transformers'):
    pytest.importorskip(name)
  import make_golden
  return make_golden
