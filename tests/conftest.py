"""Four CPU devices, strict ranks, shapes checked by jaxtyping, and compiling that is quick and kept for a second run."""
import os
import pathlib
import sys

# Most of the suite's time is XLA's: with these a test's programs compile in 60% of it, and run a little slower. Read at import.
os.environ['XLA_FLAGS'] = (os.environ.get('XLA_FLAGS', '')
                           + ' --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false').strip()

import jax
from jaxtyping import install_import_hook

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))            # configs and benchmarks are not installed

os.environ.setdefault('JAX_PLATFORMS', 'cpu')            # for the subprocesses that tests start
os.environ.setdefault('MPLBACKEND', 'agg')
caches = pathlib.Path(os.environ.get('XDG_CACHE_HOME', '~/.cache')).expanduser() / 'jaxdreamer'

jax.config.update('jax_platforms', os.environ['JAX_PLATFORMS'])
jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', str(caches / f'tests-{jax.__version__}'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', .5)

# types.py is left out: jax rebuilds its records with specs, shapes or None in place of arrays, and may.
checked = [f'jaxdreamer.{path.stem}' for path in sorted((ROOT / 'jaxdreamer').iterdir())
           if path.stem not in ('types', '__init__', '__pycache__', 'assets')]
install_import_hook(checked, 'beartype.beartype')
