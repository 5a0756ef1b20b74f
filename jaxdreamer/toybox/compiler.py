"""What XLA is told when it compiles a step of training on a CPU."""
import platform

import jax


def own_convolutions() -> dict[str, str]:
  """Options for `jax.jit` by which XLA computes a CPU's convolutions itself and leaves its YNN library matrix products and sums:
  a training step takes a seventh to a quarter less time (python -m benchmarks.training). Empty where they are not known."""
  known = jax.default_backend() == 'cpu' and platform.machine() == 'x86_64' and jax.__version_info__[:2] == (0, 10)
  kept = 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'
  return {'xla_cpu_experimental_ynn_fusion_type': kept} if known else {}
