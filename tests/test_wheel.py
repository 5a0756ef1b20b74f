"""What a stranger gets: the wheel, installed in an empty folder, with no checkout in reach."""
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = [f'--config.{option}' for option in (
  'steps=2', 'sampling.views=1', 'render.samples=4', 'render.fine=4', 'eval.size=16',
  'eval.samples=16', 'eval.mesh_resolution=16')]
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Built from a copy, so that nothing is left in the checkout."""
  pytest.importorskip('setuptools', minversion='77', reason='builds the wheel')
  source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
  shutil.copytree(ROOT / 'jaxdreamer', source / 'jaxdreamer',
                  ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  pip('wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', out, source)
  return next(out.glob('jaxdreamer-*.whl'))


@pytest.fixture(scope='module')
def site(wheel, tmp_path_factory):
  folder = tmp_path_factory.mktemp('site')
  pip('install', '--no-deps', '--target', folder, wheel)
  return folder


def pip(*args):
  done = subprocess.run([sys.executable, '-m', 'pip', '--quiet', *map(str, args)],
                        capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr[-2000:]


def train(site, folder, *args):
  """Without the site module, which would find this checkout where it is installed."""
  others = [path for path in sys.path if path.endswith(('site-packages', 'dist-packages'))]
  done = subprocess.run([sys.executable, '-S', '-m', 'jaxdreamer.train', *args], cwd=folder,
                        capture_output=True, text=True, timeout=600,
                        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(site), *others])})
  assert done.returncode == 0, done.stderr[-2000:]
  return done


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(wheel):
  there = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'jaxdreamer').rglob('*')
           if path.is_file() and '__pycache__' not in path.parts}
  packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith('jaxdreamer/')}
  assert packed == there


@pytest.mark.slow
def test_it_tells_its_configs_in_an_empty_folder(site, tmp_path):
  done = train(site, tmp_path, '--config=configs/asd.py', '--help')
  assert done.stderr == ''
  assert ('python -m jaxdreamer.train --config=configs/toybox.py' in done.stdout
          and "--config.estimator.name='asd'" in done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize('example', ['nfsd', 'metaballs', 'discs'])
def test_an_example_trains_where_it_is_copied_to(site, tmp_path, example):
  shutil.copy(ROOT / 'examples' / f'{example}.py', tmp_path / 'mine.py')
  text = (tmp_path / 'mine.py').read_text()
  (tmp_path / 'mine.py').write_text(text.replace(f"'{example}:{example}'", f"'mine:{example}'"))
  said = train(site, tmp_path, '--config=mine.py', '--workdir=run', *TINY)
  assert said.stdout.splitlines()[-1] == 'run/report.html'
  assert (tmp_path / 'run' / 'mesh.glb').stat().st_size > 1000
