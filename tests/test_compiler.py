"""XLA takes the options of the trainings, and what it computes by them is what it computes without."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.toybox import compiler


@pytest.mark.skipif(not compiler.own_convolutions(), reason='the options are known for jax 0.10 on an x86-64 CPU')
def test_convolutions_and_their_gradients_leave_ynn_and_keep_their_values():
  x, kernel = jax.random.normal(jax.random.key(0), (4, 16, 16, 32)), jax.random.normal(jax.random.key(1), (3, 3, 32, 32))
  def power(kernel):
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return jnp.mean(y ** 2)
  def built(options):
    return jax.jit(jax.value_and_grad(power), compiler_options=options).lower(kernel).compile()
  options = compiler.own_convolutions()
  ours, theirs = built(options), built(dict.fromkeys(options, 'LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'))
  def in_ynn(program):
    return any('__ynn_fusion' in line and '/conv_general_dilated"' in line for line in program.as_text().splitlines())
  assert in_ynn(theirs) and not in_ynn(ours)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours(kernel), theirs(kernel))


def test_where_the_options_are_not_known_there_are_none(monkeypatch):
  monkeypatch.setattr(jax, '__version_info__', (0, 11, 0))
  assert compiler.own_convolutions() == {}
