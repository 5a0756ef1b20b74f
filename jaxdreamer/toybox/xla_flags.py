"""What XLA is told when it compiles."""
import functools
import platform

import jax


@functools.cache
def takes(option: str, value: str | int | bool) -> bool:
  """Whether this backend compiles with an option: XLA's come and go with its versions, and it
  refuses those it does not know."""
  try:
    jax.jit(lambda: 0.).lower().compile(compiler_options={option: value})
  except (jax.errors.JaxRuntimeError, ValueError):
    return False
  return True


def known(options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
  """Those of the options for `jax.jit` that this backend takes."""
  return {option: value for option, value in options.items() if takes(option, value)}


def once() -> dict[str, str | int | bool]:
  """Options for `jax.jit` of a program that runs once: a CPU's code is not optimized, which takes
  half the time (networks) to a sixth (random numbers), and changes last bits. Empty elsewhere."""
  return known({'xla_backend_optimization_level': 0}) if jax.default_backend() == 'cpu' else {}


def deterministic() -> dict[str, str | int | bool]:
  """Options for `jax.jit` by which a GPU's sums and scatters have the same bits in every run. Empty
  elsewhere: a CPU's and a TPU's have them anyway."""
  return {'xla_gpu_deterministic_ops': True} if jax.default_backend() == 'gpu' else {}


def own_convolutions() -> dict[str, str | int | bool]:
  """Options for `jax.jit` by which XLA computes a CPU's convolutions itself and leaves its YNN
  library matrix products and sums:
  a training step takes a seventh to a quarter less time (python -m benchmarks.training). Empty
  where they are not known."""
  if jax.default_backend() != 'cpu' or platform.machine() != 'x86_64':
    return {}
  return known(
      {'xla_cpu_experimental_ynn_fusion_type':
       'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'})
