"""What only torch can do, in a process of its own: this one imports no torch and unpickles nothing.

    run('unpickle', out, *pickles, seconds=120, extra='convert', needs=('torch',), what='m.ckpt')

runs torch_side/unpickle.py by its path, within its time, and ends it where this process is
interrupted; that script, which writes, also ends by itself when its standard input does.
ValueError, one line, where a package is missing, the time is over, or it failed.
"""
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

SCRIPTS = pathlib.Path(__file__).resolve().parents[1] / 'torch_side'
# These would let torch.load run code, or reach for the hub.
UNSET, SET = ('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD',), {'HF_HUB_OFFLINE': '1'}


def run(script: str, *arguments: str | os.PathLike, seconds: float, extra: str,
        needs: tuple[str, ...], what: str) -> None:
  """Runs a script of torch_side to its end. Errors begin with `what`; `extra` brings the packages
  that it `needs`."""
  if absent := [name for name in needs if importlib.util.find_spec(name) is None]:
    raise ValueError(f"{what} needs {' and '.join(absent)}: pip install 'jaxdreamer[{extra}]'")
  env = {k: v for k, v in os.environ.items() if k not in UNSET} | SET
  command = [sys.executable, '-P', os.fspath(SCRIPTS / f'{script}.py'), *map(os.fspath, arguments)]
  with tempfile.TemporaryFile() as said, subprocess.Popen(
      command, env=env, stdin=subprocess.PIPE, stdout=said, stderr=said) as process:
    try:
      status = process.wait(seconds)
    except subprocess.TimeoutExpired:
      raise ValueError(f'{what}: torch was not done with it in {seconds:.0f} s') from None
    finally:
      process.kill()
    said.seek(0)
    lines = said.read().decode(errors='replace').strip().splitlines()
  if status < 0:
    raise ValueError(f'{what}: torch ended by signal {-status} over it'
                     + (', as where memory runs out' if status == -9 else ''))
  if status:
    raise ValueError(f'{what}: {lines[-1] if lines else f"torch left with status {status}"}')
