"""launch/slurm/train.sbatch under a real Slurm: two nodes on this machine, USR1 before the time
limit, queued again, and the numbers of a run that nobody stopped."""
import getpass
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxdreamer import runs
from jaxdreamer.priors.gaussian import gaussian

ROOT = pathlib.Path(__file__).resolve().parents[1]
DAEMONS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun')
# Of a limit of two minutes Slurm signals a minute before the end, or up to half of one earlier: the
# steps last so long
STEPS, PAUSE = 300, .2
SMALL = {'prior.name': 'test_slurm:slow', 'render.background': 'white',
         'scene.sdf_voxels.levels': (4,), 'render.samples': 4, 'render.fine': 0, 'steps': STEPS,
         'log_every': 10, 'checkpoint_every': 50, 'preview_every': 0, 'eval.size': 8,
         'eval.samples': 8, 'eval.mesh_resolution': 8, 'eval.faces': 0, 'eval.texture': 0}
CONFIG = '''ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CryptoType=crypto/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
'''


def slow(key, prompt, path):
  """A prior that takes its time, without work."""
  prior = gaussian(jnp.full((8, 8, 3), .5), std=.3)

  def eps(weights, z_t, t, text, camera):
    out = prior.eps_fn(weights, z_t, t, text, camera)
    like = jax.ShapeDtypeStruct((), out.dtype)
    def wait():
      time.sleep(float(os.environ.get('PAUSE', 0.)))
      return jnp.zeros((), out.dtype)
    return out + jax.pure_callback(wait, like)
  return prior.replace(eps_fn=eps)


def free_ports(count):
  with ExitStack() as stack:
    probes = [stack.enter_context(socket.socket()) for _ in range(count)]
    for probe in probes:
      probe.bind(('', 0))
    return [probe.getsockname()[1] for probe in probes]


@contextmanager
def daemon(*command, folder, env):
  """A program that stays, its words in a file of the folder."""
  with (folder / f'{command[0]}-{time.monotonic_ns()}.log').open('w') as log:
    process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=folder)
  try:
    yield process
  finally:
    process.terminate()
    try:
      process.wait(10)
    except subprocess.TimeoutExpired:
      process.kill()


def until(found, *, seconds, said):
  """What `found` () finds; fails with what `said` () says after so many seconds."""
  end = time.monotonic() + seconds
  while not (got := found()):
    assert time.monotonic() < end, said()
    time.sleep(.5)
  return got


@pytest.fixture
def cluster(tmp_path):
  """The environment in which Slurm's commands reach a cluster of two nodes of one core each."""
  missing = [name for name in DAEMONS if not shutil.which(name)]
  if missing:
    pytest.skip(f'no Slurm here: {", ".join(missing)} (apt install slurmctld slurmd slurm-client '
                'munge)')
  folder = tmp_path / 'slurm'
  (folder / 'state').mkdir(parents=True)
  host, ports = socket.gethostname().split('.')[0], free_ports(3)
  config, key = folder / 'slurm.conf', folder / 'munge.key'
  names = host, f'{host}-b'                      # the first is one that has an address
  nodes = [f'NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1\n'
           for name, port in zip(names, ports[1:], strict=True)]
  text = CONFIG.format(host=host, ports=ports, folder=folder, user=getpass.getuser())
  config.write_text(text.replace('PartitionName', ''.join(nodes) + 'PartitionName'))
  key.write_bytes(os.urandom(1024))
  key.chmod(0o400)
  env = {name: value for name, value in os.environ.items() if not name.startswith('SLURM')} | {
    'SLURM_CONF': str(config)}
  munge = ('munged', '--foreground', '--force', f'--key-file={key}',
           *(f'--{name}={folder}/munge.{name}' for name in ('socket', 'pid-file', 'log-file',
                                                            'seed-file')))
  with ExitStack() as stack:
    start = lambda *command: stack.enter_context(daemon(*command, folder=folder, env=env))
    start(*munge)
    until((folder / 'munge.socket').exists, seconds=10, said=lambda: 'munged does not start')
    start('slurmctld', '-D', '-f', str(config))
    for name in names:
      start('slurmd', '-D', '-f', str(config), '-N', name)
    ask = lambda: subprocess.run(('sinfo', '--noheader', '--format=%t %D'), env=env,
                                 capture_output=True, text=True).stdout
    until(lambda: 'idle 2' in ask(), seconds=60, said=lambda: ask() + ''.join(
      path.read_text() for path in folder.glob('*.log')))
    yield env


def options(workdir):
  return ['--config=configs/toybox.py', f'--workdir={workdir}',
          *(f'--config.{name}={value}' for name, value in SMALL.items())]


def state(workdir):
  """All that a run's last checkpoint holds, its typed key as numbers."""
  found = runs.restore_state(workdir)[2]
  return jax.tree.map(lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(
    x.dtype, jax.dtypes.prng_key) else x, found)


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_goes_on_by_itself_with_the_numbers_of_an_unbroken_run(
    cluster, tmp_path):
  path = f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'
  common = {'PATH': path, 'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}', 'JAX_NUM_CPU_DEVICES': '1'}
  log, workdir = tmp_path / 'job.log', tmp_path / 'slurm-run'
  sizes = ('--nodes=2', '--gpus-per-node=0', '--cpus-per-task=1', '--time=00:02:00',
           '--signal=B:USR1@60', f'--output={log}', f'--chdir={ROOT}')
  queued = subprocess.run(('sbatch', '--parsable', *sizes, 'launch/slurm/train.sbatch',
                           *options(workdir)), cwd=ROOT, capture_output=True, text=True,
                          env=cluster | common | {'PAUSE': str(PAUSE)})
  assert queued.returncode == 0, queued.stderr
  job = queued.stdout.strip()

  # meanwhile, the run that nobody stops: one process of two devices
  done = subprocess.run((sys.executable, '-m', 'jaxdreamer.train', *options(tmp_path / 'one')),
                        cwd=ROOT, capture_output=True, text=True,
                        env=os.environ | common | {'JAX_NUM_CPU_DEVICES': '2'})
  assert done.returncode == 0, done.stderr

  def ended():
    told = subprocess.run(('scontrol', '--oneliner', 'show', 'job', job), env=cluster,
                          capture_output=True, text=True).stdout
    fields = dict(part.split('=', 1) for part in told.split() if '=' in part)
    return fields if fields.get('JobState') in ('COMPLETED', 'FAILED', 'TIMEOUT', 'CANCELLED',
                                                'NODE_FAIL') else None
  fields = until(ended, seconds=420, said=lambda: log.read_text() if log.exists() else 'no log')
  said = log.read_text()
  assert fields['JobState'] == 'COMPLETED' and int(fields['Restarts']) >= 1, said
  assert 'SIGUSR1: saved step' in said and 'going on from step' in said, said
  assert said.rstrip().endswith(f'{workdir}/report.html'), said
  chex.assert_trees_all_equal(state(workdir), state(tmp_path / 'one'))
  rows, alone = (
    [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    for folder in (workdir, tmp_path / 'one'))
  assert rows == alone and rows[-1]['step'] == STEPS
