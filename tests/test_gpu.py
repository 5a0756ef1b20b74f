"""A GPU's numbers against the CPU's; where there is none, the same functions on two CPU devices, or
only traced.

JAX_PLATFORMS=cuda,cpu python -m pytest tests/test_gpu.py -m gpu
"""
import jax
import numpy as np
import pytest

from benchmarks import gpu_parity
from jaxdreamer.toybox import xla_flags

QUICK = ('attention', 'hash grid')       # to compile, twice


def first_gpu():
  try:
    return jax.devices('gpu')[0]
  except RuntimeError:
    pytest.skip('no GPU')


@pytest.mark.gpu
@pytest.mark.parametrize('name', gpu_parity.CASES)
def test_a_gpu_has_the_cpus_numbers(name):
  far, tolerance = gpu_parity.difference(name, first_gpu(), jax.devices('cpu')[0])
  assert far < tolerance


@pytest.mark.gpu
@pytest.mark.parametrize('name', ['hash grid', 'render', 'step'])
def test_a_gpu_that_is_told_so_has_the_same_bits_again(name):
  gpu, case = first_gpu(), gpu_parity.CASES[name]()
  first, *others = (gpu_parity.run(case, gpu, xla_flags.deterministic()) for _ in range(5))
  for other in others:
    jax.tree.map(np.testing.assert_array_equal, other, first)


@pytest.mark.parametrize('name', QUICK)
def test_two_cpu_devices_have_the_same_numbers(name):
  far, tolerance = gpu_parity.difference(name, *jax.devices('cpu')[1::-1])
  assert far < 1e-6 < tolerance


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(set(gpu_parity.CASES) - set(QUICK)))
def test_what_a_gpu_is_asked_has_a_gradient_of_its_arguments_shapes(name):
  case = gpu_parity.CASES[name]()
  found = jax.tree.leaves(jax.eval_shape(case.f, *case.args))
  assert found and all(x.size for x in found)


def test_what_is_wrong_or_not_finite_is_far_apart():
  x = {'a': np.ones(4, np.float32), 'b': np.arange(3.)}
  assert gpu_parity.apart(x, x) == 0.
  assert gpu_parity.apart(x | {'b': np.array([0., 1., 2.5])}, x) == pytest.approx(.5 / 5 ** .5)
  assert gpu_parity.apart(x | {'a': np.full(4, np.nan)}, x) == float('inf')
  with pytest.raises(ValueError):
    gpu_parity.apart({'a': x['a']}, x)
