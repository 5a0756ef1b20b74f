"""What importing the package does: it keeps a CPU's convolutions from XLA's YNN library, and leaves other flags alone."""
import importlib
import os

import jax
import jax.numpy as jnp
import pytest

import jaxdreamer

pytestmark = pytest.mark.skipif(not jaxdreamer.TRIED, reason='only versions that have been tried are told')
FLAG = jaxdreamer.YNN.removeprefix('--')


@pytest.mark.parametrize('before, after', [
    (None, f'{jaxdreamer.YNN}={jaxdreamer.KEPT}'), ('--xla_some=1', f'--xla_some=1 {jaxdreamer.YNN}={jaxdreamer.KEPT}'),
    (f'{jaxdreamer.YNN}=', f'{jaxdreamer.YNN}=')])
def test_the_flag_joins_those_of_the_user_and_gives_way_to_his(monkeypatch, before, after):
  if before is None:
    monkeypatch.delenv('XLA_FLAGS', raising=False)
  else:
    monkeypatch.setenv('XLA_FLAGS', before)
  importlib.reload(jaxdreamer)
  assert os.environ['XLA_FLAGS'] == after
  importlib.reload(jaxdreamer)
  assert os.environ['XLA_FLAGS'] == after


def test_xla_obeys_it():
  x, kernel = jnp.ones((8, 16, 16, 32)), jnp.ones((3, 3, 32, 32))
  def compiled(options):
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return jax.jit(conv, compiler_options=options).lower(x, kernel).compile().as_text()
  assert 'ynn' not in compiled(None)
  assert 'ynn' in compiled({FLAG: 'LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'})
