"""Four CPU devices, strict ranks, shapes checked by jaxtyping, and compiling that is quick and kept
for a second run."""
import os
import pathlib
import subprocess
import sys

# Most of the suite's time is XLA's: with these a test's programs compile in 60% of it, and run a
# little slower.
QUICK = ('--xla_backend_optimization_level=1', '--xla_cpu_use_fusion_emitters=false')


def starts(flags: str) -> bool:
  """Whether XLA takes these flags: a process that gives it one of another version ends."""
  return not subprocess.run([sys.executable, '-c', 'import jax; jax.devices()'],
                            capture_output=True,
                            env={**os.environ, 'JAX_PLATFORMS': 'cpu',
                                 'XLA_FLAGS': flags}).returncode


def with_quick(given: str) -> str:
  """`given` and those of QUICK that XLA takes."""
  if QUICK[0] in given:                    # this is a worker: who started it has asked
    return given
  every = ' '.join([given, *QUICK]).strip()
  return every if starts(every) else ' '.join([given, *filter(starts, QUICK)]).strip()


os.environ['XLA_FLAGS'] = with_quick(os.environ.get('XLA_FLAGS', ''))        # read at import

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

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

# types.py is left out: jax rebuilds its records with specs, shapes or None in place of arrays, and
# may.
checked = [f'jaxdreamer.{path.stem}' for path in sorted((ROOT / 'jaxdreamer').iterdir())
           if path.stem not in ('types', '__init__', '__pycache__', 'assets')]
install_import_hook(checked, 'beartype.beartype')


def pytest_collection_modifyitems(items):
  """Files of which a greater share is slow come first: workers that share out files have none of
  the long ones left at the end (launch/test.sh keeps this order)."""
  slow = {}
  for item in items:
    slow.setdefault(item.path, []).append(item.get_closest_marker('slow') is not None)
  items.sort(key=lambda item: -sum(slow[item.path]) / len(slow[item.path]))


@pytest.fixture
def parse(monkeypatch, tmp_path):
  """The config that a command makes of its arguments, in an empty folder."""
  from jaxdreamer import cli
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  def parse(*arguments):
    given = flags.FlagValues()
    monkeypatch.setattr(flags, 'FLAGS', given)
    monkeypatch.setattr(sys, 'argv', cli.arranged([__name__, *arguments]))
    cli.config_flag()
    flags.DEFINE_string('workdir', None, 'Where the run lives.', flag_values=given)
    cli.parse(sys.argv)
    return given.config
  return parse


@pytest.fixture
def refuse(parse, capsys):
  """The one line that it answers before it leaves with status 2."""
  from jaxdreamer import cli
  def refuse(*arguments):
    with pytest.raises(SystemExit) as left:
      parse(*arguments)
    said = capsys.readouterr().err
    assert left.value.code == cli.MISUSED and said.count('\n') == 1, said
    return said
  return refuse


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
  """A cache folder of the test's own, empty at first."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A small Stable Diffusion of random weights: its folder, and what published.write_model tells of
  it."""
  import published
  folder = tmp_path_factory.mktemp('model')
  return folder, published.write_model(folder)
