"""Text to 3D by score distillation, as pure functions in JAX."""
import os
import platform

import jax

# On a CPU, XLA hands convolutions to its YNN library, where they and their gradients take up to twice the time of XLA's own
# (benchmarks.convolutions): matrix products and sums stay there. XLA reads its flags before it first compiles, and ends the process
# over one that it does not know: only versions that have been tried are told.
YNN = '--xla_cpu_experimental_ynn_fusion_type'
KEPT = 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'
TRIED = jax.__version_info__[:2] == (0, 10) and platform.machine() == 'x86_64'
if TRIED and YNN not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {YNN}={KEPT}'.strip()
