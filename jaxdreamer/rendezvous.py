"""How the processes of a run, one a host, find each other, before anything is computed.

    join(coordinator='host:port', processes=4, process=2, run={...})

Slurm and JAX's own variables fill in what is not given. Whoever starts processes by hand gives each
its index of 0 to processes - 1, and all of them the coordinator, HOST:PORT, a free port on the host
of process 0.
"""
import json
import os
import re
import socket
import time
from typing import NamedTuple

import jax

VARIABLES = {'coordinator': 'JAX_COORDINATOR_ADDRESS', 'processes': 'JAX_NUM_PROCESSES',
             'process': 'JAX_PROCESS_ID'}


class Seat(NamedTuple):
  """Which of the processes one is. None: not known."""
  coordinator: str | None        # HOST:PORT of process 0
  processes: int | None
  process: int | None


def number(name: str, value: str) -> int:
  """The whole number that the variable or option `name` holds as text."""
  if not re.fullmatch(r'\d+', value):
    raise ValueError(f'{name}={value!r}: takes a whole number')
  return int(value)


def from_slurm(env: dict[str, str]) -> Seat:
  """Of a step of Slurm: its first host, at a port that its job's number gives, as JAX chooses
  it."""
  if not {'SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID'} <= env.keys():
    return Seat(None, None, None)
  # node001,node7 or node[001-004,7]
  host = re.match(r'([^,\[]*)(?:\[([^,\-\]]+))?', env['SLURM_STEP_NODELIST'])
  port = env.get('JAX_COORDINATOR_PORT') or number('SLURM_JOB_ID',
                                                   env['SLURM_JOB_ID']) % 4096 + 61440
  return Seat(f'{host[1]}{host[2] or ""}:{port}',
              *(number(name, env[name]) for name in ('SLURM_NTASKS', 'SLURM_PROCID')))


def where(*, coordinator: str, processes: int, process: int, env: dict[str, str]) -> Seat:
  """Of the options, then of JAX's variables, then of Slurm's. '', 0 and -1 are options that nobody
  gave."""
  given = {'coordinator': coordinator or None, 'processes': processes or None,
           'process': None if process < 0 else process}
  for option, variable in VARIABLES.items():
    if given[option] is None and env.get(variable):
      given[option] = env[variable] if option == 'coordinator' else number(variable, env[variable])
  slurm = from_slurm(env)
  seat = Seat(*(known if known is not None else default
                for known, default in zip(given.values(), slurm)))
  if seat.coordinator and not re.fullmatch(r'.+:\d+', seat.coordinator):
    raise ValueError(f'config.mesh.coordinator={seat.coordinator!r}: takes HOST:PORT of process 0')
  if seat.processes is not None and seat.processes < 1:
    raise ValueError(f'config.mesh.processes={seat.processes}: takes a positive number')
  if None not in seat and seat.process >= seat.processes:
    raise ValueError(f'config.mesh.process={seat.process}: takes 0 to {seat.processes - 1}, for '
                     'config.mesh.processes='
                     f'{seat.processes}')
  missing = [f'config.mesh.{option} (or {VARIABLES[option]})'
             for option, value in seat._asdict().items() if value is None]
  if 0 < len(missing) < 3:
    raise ValueError(f'config.mesh.distributed=True also takes {" and ".join(missing)}: no '
                     'scheduler tells it here')
  return seat


def local_devices(env: dict[str, str]) -> list[int] | None:
  """Which GPUs of its host a process takes: all ([]), where it is alone there; None is what JAX
  does, which gives each of several tasks of Slurm one, and heeds JAX_LOCAL_DEVICE_IDS."""
  alone = env.get('SLURM_NTASKS') == env.get('SLURM_STEP_NUM_NODES')
  return [] if alone and 'JAX_LOCAL_DEVICE_IDS' not in env else None


def join(*, coordinator: str = '', processes: int = 0, process: int = -1, wait: float = 300.,
         run: dict):
  """Joins the processes of a run; ValueError of one line where some have not come within `wait`
  seconds, which names them.

  `run` holds the options, flat, that must be the same in all. Where nothing tells a process which
  it is, JAX looks for a scheduler.
  """
  env = dict(os.environ)
  seat = where(coordinator=coordinator, processes=processes, process=process, env=env)
  known = None not in seat
  if known:
    # JAX would abort, and name nobody
    roll_call(seat, wait=wait, run=json.loads(json.dumps(run | {'jax': jax.__version__})))
  try:
    jax.distributed.initialize(*seat, local_device_ids=local_devices(env) if known else None,
                               initialization_timeout=max(30, round(wait)))
  except (RuntimeError, ValueError) as error:
    options = '; '.join(f'config.mesh.{option} or {variable}'
                        for option, variable in VARIABLES.items())
    raise ValueError(f'config.mesh.distributed=True: {str(error).splitlines()[0]} Start with a '
                     'script of launch/, or say where '
                     f'each process stands ({options}), or leave the option out') from error


def roll_call(seat: Seat, *, wait: float, run: dict):
  """Returns in all processes once all are there, and raises in all that are there where one is
  missing."""
  host, _, port = seat.coordinator.rpartition(':')
  why = (answer(host.strip('[]'), int(port), seat, wait=wait, run=run) if seat.process else
         call(int(port), seat, wait=wait, run=run))
  if why:
    raise ValueError(f'config.mesh.distributed=True: {why}')


def call(port: int, seat: Seat, *, wait: float, run: dict) -> str:
  """Process 0's part: hears the others, and tells them, and returns, what is wrong; '' if nothing
  is."""
  end, here, why = time.monotonic() + wait, {}, ''
  try:
    server = (socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True)
              if socket.has_dualstack_ipv6() else
              socket.create_server(('', port)))
  except OSError as error:
    raise ValueError(f'config.mesh.coordinator={seat.coordinator!r}: port {port} cannot be opened '
                     f'here ({error.strerror}); give '
                     'all processes another') from None
  with server:
    while not why and (missing := [i for i in range(1, seat.processes) if i not in here
                                   or gone(here[i])]):
      server.settimeout(max(1e-3, end - time.monotonic()))
      try:
        line, _ = server.accept()
      except TimeoutError:
        names = (f'process{"es" if missing[1:] else ""} {", ".join(map(str, missing))} of '
                 f'{seat.processes}')
        why = f'{names} did not come to {seat.coordinator} within {wait:g} s'
        break
      try:
        line.settimeout(5.)
        index, count, theirs = json.loads(line.makefile('rb').readline(2 ** 20))
        other = [name for name in sorted({*run, *theirs}) if run.get(name) != theirs.get(name)]
      except (OSError, ValueError, TypeError, AttributeError):
        line.close()                             # not one of ours
        continue
      if count != seat.processes:
        why = f'process {index} was told of {count} processes, process 0 of {seat.processes}'
      elif other:
        why = (f'process {index} has {other[0]}={theirs.get(other[0])!r}, process 0 '
               f'{run.get(other[0])!r}: give all the same command')
      elif index in here and not gone(here[index]):
        why = f'two processes say that they are process {index}'
      here[index] = line
    for line in here.values():
      with line:
        try:
          line.sendall(json.dumps(why).encode() + b'\n')
        except OSError:
          pass                                   # it gave up meanwhile
  return why


def gone(line: socket.socket) -> bool:
  """Whether the other end was closed."""
  line.setblocking(False)
  try:
    return not line.recv(1)
  except BlockingIOError:
    return False
  except OSError:
    return True
  finally:
    line.settimeout(5.)


def answer(host: str, port: int, seat: Seat, *, wait: float, run: dict) -> str:
  """The part of the others: what process 0 says, or that it is missing."""
  end = time.monotonic() + wait
  while True:
    try:
      with socket.create_connection((host, port), timeout=max(1., end - time.monotonic())) as line:
        line.sendall(json.dumps([seat.process, seat.processes, run]).encode() + b'\n')
        line.settimeout(wait + 10.)  # process 0 may have come later, and has its own clock
        return json.loads(line.makefile('rb').readline())
    except (OSError, ValueError) as error:       # ValueError: something else listens there
      if time.monotonic() > end:
        return (f'process 0 of {seat.processes} did not answer at {seat.coordinator} within '
                f'{wait:g} s ({error})')
    time.sleep(.2)
