"""A GPU's numbers against the CPU's; where there is none, the same functions on two CPU devices.

JAX_PLATFORMS=cuda,cpu python -m pytest tests/test_gpu.py -m gpu
"""
import jax
import numpy as np
import pytest

from benchmarks import gpu_parity

SLOW = ('unet', 'unet in bfloat16', 'step', 'encoder')
names = pytest.mark.parametrize('name', [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW
                                                      else []) for name in gpu_parity.CASES])


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


@names
def test_two_cpu_devices_have_the_same_numbers(name):
  far, tolerance = gpu_parity.difference(name, *jax.devices('cpu')[1::-1])
  assert far < 1e-6 < tolerance


def test_what_is_wrong_or_not_finite_is_far_apart():
  x = {'a': np.ones(4, np.float32), 'b': np.arange(3.)}
  assert gpu_parity.apart(x, x) == 0.
  assert gpu_parity.apart(x | {'b': np.array([0., 1., 2.5])}, x) == pytest.approx(.5 / 5 ** .5)
  assert gpu_parity.apart(x | {'a': np.full(4, np.nan)}, x) == float('inf')
  with pytest.raises(ValueError):
    gpu_parity.apart({'a': x['a']}, x)
