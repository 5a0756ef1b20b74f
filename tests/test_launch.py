"""Launch scripts: they parse, say what is wrong, and call the commands that exist."""
import configparser
import copy
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import yaml

from jaxdreamer import doctor, rendezvous

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = ROOT / 'launch'
SCRIPTS = sorted([*LAUNCH.rglob('*.sh'), *LAUNCH.rglob('*.sbatch'), ROOT / '.ci' / 'run'])


def bash(*args, **kwargs):
  return subprocess.run(('bash', *map(str, args)), capture_output=True, text=True,
                        stdin=subprocess.DEVNULL, **kwargs)


@pytest.fixture
def checkout(tmp_path):
  """A fresh checkout with a space in its name: the launch scripts and setup.cfg, with nothing
  installed."""
  root = tmp_path / 'a checkout'
  shutil.copytree(LAUNCH, root / 'launch')
  shutil.copy(ROOT / 'setup.cfg', root)
  return root


@pytest.fixture
def python(tmp_path):
  """A stand-in for python: `-m venv` makes one with itself inside, `-m jaxdreamer.train` prints its
  arguments."""
  fake = tmp_path / 'python'
  fake.write_text('''#!/usr/bin/env bash
case "$*" in
  *'sys.exit(sys.version_info'*) exit "${TOO_OLD:-0}" ;;
  *ensurepip*) exit "${NO_VENV:-0}" ;;
  --version) echo 'Python 3.9.1' ;;
  *hashlib*) sha256sum <"${!#}" | cut -c1-16 ;;
  '-m venv'*) mkdir -p "${!#}/bin"; rm -rf "${!#}"/made-*; cp "$0" "${!#}/bin/python" ;;
  '-m pip'*) echo "pip: $*" ;;
  '-m pytest'*) printf 'tested:'; printf ' <%s>' "$@"; echo; exit "${FAILS:-0}" ;;
  '-m jaxdreamer'*) printf 'ran in %s:' "$PWD"; printf ' <%s>' "$@"; echo ;;
esac
''')
  fake.chmod(0o755)
  return fake


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script):
  assert bash('-n', script).stderr == ''


@pytest.mark.parametrize('script', [s for s in SCRIPTS if s.name != 'venv.sh'],
                         ids=lambda path: path.name)
def test_script_stops_at_the_first_error(script):
  assert 'set -euo pipefail' in script.read_text()


def test_local_installs_once_and_passes_every_argument_on(checkout, python, tmp_path):
  command = [checkout / 'launch' / 'local.sh', '--config.prompt=a red cube', '--workdir=/tmp/a b']
  env = {**os.environ, 'PYTHON': str(python)}
  first = bash(*command, cwd=tmp_path, env=env)
  assert first.returncode == 0, first.stderr
  assert f'pip: -m pip install --quiet --editable {checkout}' in first.stdout
  assert f'ran in {checkout}: <-m> <jaxdreamer.train> <--config=configs/toybox.py> ' in first.stdout
  assert '<--config.prompt=a red cube> <--workdir=/tmp/a b>' in first.stdout
  again = bash(*command, cwd=tmp_path, env=env)
  assert 'pip' not in again.stdout and 'ran in' in again.stdout
  (checkout / 'setup.cfg').write_text('[metadata]\nname = changed\n')
  assert 'pip' in bash(*command, cwd=tmp_path, env=env).stdout


@pytest.mark.parametrize('wrong, says', [
    ({'TOO_OLD': '1'}, 'Python 3.9.1 is too old: Python 3.11 or later is needed'),
    ({'NO_VENV': '1'}, 'apt install python3-venv'),
    ({'PYTHON': '/no/such/python'}, "no '/no/such/python' here"),
])
def test_local_says_what_is_missing(checkout, python, wrong, says):
  out = bash(checkout / 'launch' / 'local.sh', env={**os.environ, 'PYTHON': str(python), **wrong})
  assert out.returncode == 1 and says in out.stderr and not (checkout / '.venv').exists()


def test_local_leaves_a_venv_of_the_users_alone(checkout, python):
  (checkout / '.venv').mkdir()
  (checkout / '.venv' / 'mine').touch()
  out = bash(checkout / 'launch' / 'local.sh', env={**os.environ, 'PYTHON': str(python)})
  assert out.returncode == 1 and "not this script's" in out.stderr and (
      checkout / '.venv' / 'mine').exists()


@pytest.fixture
def tests(checkout, python):
  """launch/test.sh with its arguments, over stand-ins for python, ruff and pyright."""
  (checkout / 'bin').mkdir()
  for name, status in (('ruff', 'LINT'), ('pyright', 'TYPES')):
    (checkout / 'bin' / name).write_text(f'#!/usr/bin/env bash\nexit "${{{status}:-0}}"\n')
    (checkout / 'bin' / name).chmod(0o755)
  path = f'{checkout / "bin"}:{os.environ["PATH"]}'
  known = {**os.environ, 'PYTHON': str(python), 'PATH': path}
  return lambda *args, **env: bash(checkout / 'launch' / 'test.sh', *args, env=known | env)


def test_the_tests_need_no_torch_unless_parity_is_asked_for(tests, checkout):
  said = tests('-k', 'a volume').stdout
  assert f'--editable {checkout}[test,docs,viewer]' in said and 'torch==' not in said
  assert '<-n> <2>' in said and '<-k> <a volume>' in said
  said = tests('-k', 'clip', '--parity', '-x').stdout
  assert f'--editable {checkout}[test,docs,viewer,parity]' in said
  assert '--quiet torch==2.13.0' in said
  assert '<-k> <clip> <-x>' in said and '<--parity>' not in said
  assert '--parity' in (ROOT / '.ci' / 'run').read_text()


@pytest.mark.parametrize(('env', 'status'), [({}, 0), ({'FAILS': '3'}, 3), ({'LINT': '1'}, 1),
                                              ({'TYPES': '1'}, 1)])
def test_the_tests_leave_with_what_failed(tests, env, status):
  out = tests(**env)
  assert out.returncode == status and 'tested:' in out.stdout


def test_a_test_that_hangs_is_ended_with_its_stack(tmp_path):
  (tmp_path / 'test_hung.py').write_text('import time\n\ndef test_hung():\n  time.sleep(60)\n')
  began = time.monotonic()
  out = subprocess.run([sys.executable, '-m', 'pytest', '-c', ROOT / 'pyproject.toml',
                        f'--rootdir={tmp_path}',
                        '-o', 'faulthandler_timeout=.5', tmp_path / 'test_hung.py'],
                       capture_output=True, text=True, cwd=tmp_path)
  assert out.returncode == 1 and time.monotonic() - began < 55
  assert 'line 4 in test_hung' in out.stderr, out.stderr
  assert tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['pytest']['ini_options'][
      'faulthandler_timeout'] >= 600


def test_ci_runs_the_commands_of_the_readme_on_every_python():
  job = yaml.safe_load((ROOT / '.github' / 'workflows' / 'ci.yml').read_text())['jobs']['test']
  options = configparser.ConfigParser()
  options.read(ROOT / 'setup.cfg')
  pythons = job['strategy']['matrix']['python']
  assert f'>={pythons[0]}' == options['options']['python_requires'] and doctor.TESTED[
      'python'] in pythons
  runs = [step['run'] for step in job['steps'] if 'run' in step]
  assert any(run.startswith('bash launch/test.sh')
             for run in runs) and any(run.startswith('bash launch/local.sh') for run in runs)
  parity, = job['strategy']['matrix']['include']
  assert parity == {'python': pythons[0], 'arguments': '--parity'}


@pytest.mark.parametrize('ends, requeued', [('exit 75', True), ('exit 138', True),
                                            ('exit 0', False), ('exit 3', False)])
def test_slurm_passes_the_signal_on_and_queues_again_only_what_was_stopped(tmp_path,
                                                                           ends, requeued):
  stubs = {'srun': f'echo "$@" >arguments; trap "{ends}" USR1; echo $$ >pid; while :; do sleep '
           '.05; done',
           'scancel': 'echo "$@" >canceled; kill -USR1 "$(cat pid)"',
           'scontrol': 'echo "$@" >requeued'}
  for name, body in stubs.items():
    (tmp_path / name).write_text(f'#!/usr/bin/env bash\n{body}\n')
    (tmp_path / name).chmod(0o755)
  env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}',
         'SLURM_SUBMIT_DIR': str(tmp_path), 'SLURM_JOB_ID': '7'}
  job = subprocess.Popen(['bash', LAUNCH / 'slurm' / 'train.sbatch', '--config.prompt=a red cube'],
                         env=env)
  while not (tmp_path / 'pid').exists():
    time.sleep(.02)
    assert job.poll() is None
  time.sleep(.2)
  job.send_signal(signal.SIGUSR1)
  assert job.wait(30) == (0 if requeued else int(ends.split()[1]))
  assert '--config.mesh.distributed=True --config.prompt=a red cube' in (
      tmp_path / 'arguments').read_text()
  assert (tmp_path / 'canceled').read_text() == '--signal=USR1 7.0\n'
  assert (tmp_path / 'requeued').exists() == requeued


def test_tpu_vm_quotes_for_the_workers_shell(tmp_path):
  for name, body in {'gcloud': 'printf "%s\\n" "$@" >>"$CALLS"', 'git': 'exit 0'}.items():
    (tmp_path / name).write_text(f'#!/usr/bin/env bash\n{body}\n')
    (tmp_path / name).chmod(0o755)
  env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'CALLS': str(tmp_path / 'calls')}
  script = LAUNCH / 'tpu' / 'tpu_vm.sh'
  assert bash(script, 'pod', env=env).returncode == 2
  assert bash(script, 'pod', 'us-east1-c', '--config.prompt=a red cube', env=env).returncode == 0
  last = (tmp_path / 'calls').read_text().splitlines()[-1]
  assert last.startswith('--command=cd jaxdreamer && .venv/bin/python -m jaxdreamer.train '
                         '--config.mesh.distributed=True')
  assert r'--config.prompt=a\ red\ cube' in last


JOBSETS = sorted((LAUNCH / 'gke').glob('*.yaml'))


def jobset(path):
  """(all of the file, its pod's spec, the only container)."""
  job, = yaml.safe_load_all(path.read_text())
  pod = job['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']
  container, = pod['containers']
  return job, pod, container


def holds(whole, part):
  """Whether `whole` says all that `part` does, defaults aside."""
  if isinstance(part, dict):
    return all(key in whole and holds(whole[key], value) for key, value in part.items())
  if isinstance(part, list):
    return len(whole) == len(part) and all(map(holds, whole, part))
  return whole == part


@pytest.mark.parametrize('path', JOBSETS, ids=lambda path: path.name)
def test_a_jobset_is_what_its_published_schema_takes(path):
  """Models made of the schemas of JobSet and Kubernetes hold all that the file says: a slip in a
  name is lost, one in a kind refused."""
  models = pytest.importorskip('kubeflow_trainer_api.models')
  job, _, _ = jobset(path)
  read = lambda job: models.JobsetV1alpha2JobSet.from_dict(job).to_dict()
  assert holds(read(job), job)
  slips = copy.deepcopy(job), copy.deepcopy(job)
  slips[0]['spec']['failurePolicy']['maxRestart'] = 3
  slips[1]['spec']['replicatedJobs'][0]['replicas'] = 'one'
  assert not holds(read(slips[0]), slips[0])
  with pytest.raises(ValueError):
    read(slips[1])


@pytest.mark.parametrize('path', JOBSETS, ids=lambda path: path.name)
def test_jobset_starts_one_process_a_host(path):
  job, pod, container = jobset(path)
  spec = job['spec']['replicatedJobs'][0]['template']['spec']
  assert spec['parallelism'] == spec['completions'] and spec['completionMode'] == 'Indexed'
  assert container['command'][:3] == ['python', '-m', 'jaxdreamer.train']
  if topology := pod['nodeSelector'].get('cloud.google.com/gke-tpu-topology'):
    rows, columns = topology.split('x')
    chips = container['resources']['limits']['google.com/tpu']
    assert spec['completions'] == int(rows) * int(columns) // chips
    return
  told = {one['name']: one.get('value', '0') for one in container['env']}
  where = rendezvous.where(coordinator='', processes=0, process=-1, env=told)
  name = f"{job['metadata']['name']}-{job['spec']['replicatedJobs'][0]['name']}-0-0"
  assert where == (f"{name}.{job['metadata']['name']}:{container['ports'][0]['containerPort']}",
                   spec['completions'], 0)


def test_launched_modules_and_configs_exist():
  for path in [*SCRIPTS, *JOBSETS]:
    text = path.read_text()
    for config in re.findall(r'configs/\w+\.py', text):
      assert (ROOT / config).exists(), f'{path.name}: {config}'
    if path.name != 'venv.sh':
      assert re.search(r'python -m jaxdreamer\.train|- jaxdreamer\.train|test\.sh|pytest',
                       text), path.name
