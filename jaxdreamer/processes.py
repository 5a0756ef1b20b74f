"""One run by several processes, one a host: how they share a mesh, and give up together.

    with together(): ...             what one process refuses, all refuse, with the same line

With one process nothing here communicates. rendezvous.py brings them together.
"""
import atexit
import hashlib
import math
import os
import re
import sys
import time
from contextlib import contextmanager, nullcontext
from typing import Callable, ContextManager, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jaxtyping import PyTree

from jaxdreamer import layout
from jaxdreamer.layout import name

LONGEST = 2048                     # bytes of a refusal that other processes are told
# what is said of a collective that one process has left
LOST = 'gloo|nccl|rccl|peer|connection|heartbeat|coordination'


def first() -> bool:
  """Whether this process is the one that writes and speaks."""
  return jax.process_index() == 0


def shared_out(devices: list, views: int, *, data: int, ring: int, model: int = 1) -> list:
  """`data` times `model` of the devices, as many of each process; data = 0 takes all that are
  there, or the most that share out the views in rings."""
  owned = {}
  for device in devices:
    owned.setdefault(device.process_index, []).append(device)
  count, most = len(owned), len(owned) * min(map(len, owned.values()))
  each = math.lcm(count, model)
  if each > most:
    raise ValueError(f'config.mesh.model={model}: there are {most} devices'
                     + (f' in {count} processes' if count > 1 else ''))
  total = data * model or max((n for n in range(each, most + 1, each) if views // ring % n == 0),
                              default=0)
  if not total:
    raise ValueError(f'config.sampling.views={views}: '
                     + (f'{count} processes take' if model == 1 else
                        f'config.mesh.model={model} takes') + f' a multiple of {each * ring}')
  if total > most or total % count:
    raise ValueError(f'config.mesh.data={data}'
                     + (f' of config.mesh.model={model}' if model > 1 else '')
                     + f': there are {most} devices'
                     + (f', as many in each of {count} processes: takes a multiple of {count}'
                        if count > 1 else ''))
  return [device for device in devices if device in owned[device.process_index][:total // count]]


def make_mesh(views: int, *, data: int, ring: int, how: str, model: int = 1) -> Mesh:
  """Of the devices that shared_out chooses: ('data',), or where `model` is above 1 ('data',
  'model'), of which those that share arrays are neighbors."""
  if how == 'pmap' and model > 1:
    raise ValueError(f"config.mesh.map='pmap': config.mesh.model={model} takes 'shard_map'")
  if how == 'pmap' and jax.process_count() > 1:
    raise ValueError(f"config.mesh.map='pmap': {jax.process_count()} processes take 'shard_map'")
  devices = shared_out(jax.devices(), views, data=data, ring=ring, model=model)
  sizes = {'data': len(devices) // model} | ({'model': model} if model > 1 else {})
  return jax.make_mesh(tuple(sizes.values()), tuple(sizes), devices=devices,
                       axis_types=(AxisType.Auto,) * len(sizes))


def on_cpus(mesh: Mesh) -> bool:
  """Whether several CPU devices, of one process or of many, share the work."""
  return mesh.devices.size > 1 and mesh.devices.flat[0].platform == 'cpu'


def place(tree: PyTree, mesh: Mesh) -> PyTree:
  """Arrays that have no place on the mesh are put where layout.py has them: once, and so that all
  calls look alike. Each process puts its own copy, which must be equal, onto its own devices."""
  def put(path, x):
    if isinstance(getattr(x, 'sharding', None), NamedSharding):
      return x
    there = NamedSharding(mesh, layout.spec(name(path), np.shape(x), mesh))
    if there.is_fully_addressable:
      return jax.device_put(x, there)
    return jax.make_array_from_callback(np.shape(x), there, lambda at: x[at] if at else x)
  return jax.tree_util.tree_map_with_path(put, tree)


def on_one_device(params: PyTree) -> PyTree:
  """A whole copy on one local device: to render it takes no other process. All processes call this,
  together."""
  near = lambda x: x.is_fully_addressable or x.is_fully_replicated
  whole = jax.tree.map(lambda x: x if near(x) else multihost_utils.process_allgather(x, tiled=True),
                       params)
  return jax.device_put(jax.device_get(whole), jax.local_devices()[0])


def in_host_memory(mesh: Mesh) -> ContextManager:
  """Where devices share arrays none can be asked to hold all of them: what is made within waits in
  the host's memory to be placed."""
  if mesh.shape.get('model', 1) == 1:
    return nullcontext()
  return jax.default_device(jax.local_devices(backend='cpu')[0])


def gather(text: str) -> list[str]:
  """The text of each process, cut to LONGEST bytes. All call this, together."""
  if jax.process_count() == 1:
    return [text]
  padded = np.frombuffer(text.encode()[:LONGEST].ljust(LONGEST, b'\0'), np.uint8)
  return [bytes(row).rstrip(b'\0').decode(errors='ignore')
          for row in multihost_utils.process_allgather(padded)]


@contextmanager
def together() -> Iterator[None]:
  """What is refused within (ValueError, OSError) by one process is refused by all: none waits for
  one that left."""
  refused = None
  try:
    yield
  except (ValueError, OSError) as error:
    refused = error
  said = gather(refused and (str(refused) or type(refused).__name__) or '')
  if refused:
    raise refused
  for index, why in enumerate(said):
    if why:
      raise ValueError(f'process {index}: {why}')


def leave(status: int):
  """Ends the process now; the first one, without which the others abort, a little after they have
  said why they end."""
  sys.stdout.flush()
  sys.stderr.flush()
  time.sleep(1. if first() else 0.)
  os._exit(status)


@contextmanager
def one_for_all() -> Iterator[None]:
  """After an error within, this process does not wait for the others, which wait for it:
  jax.distributed and orbax would, for minutes. Where another is gone it says so and ends here and
  now; all other errors are reported as ever, and it ends then."""
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    if isinstance(error, jax.errors.JaxRuntimeError) and re.search(LOST, str(error), re.IGNORECASE):
      print(f'jaxdreamer: another process of this run is gone ({str(error).splitlines()[0]}); the '
            'same command, given to all '
            'processes again, goes on from the newest checkpoint', file=sys.stderr)
      leave(1)
    atexit.register(leave, 130 if isinstance(error, KeyboardInterrupt) else 1)
    raise


def check_shared(folder: str, look: Callable[[], str], *, tries: int = 20):
  """ValueError where `look` () does not tell all processes the same of a folder that they should
  share."""
  for left in reversed(range(tries)):
    seen = gather(hashlib.sha256(look().encode()).hexdigest())
    odd = [index for index, mark in enumerate(seen) if mark != seen[0]]
    if not odd:
      return
    time.sleep(min(left, 1.))                    # a network's file system may be behind
  raise ValueError(f'{folder} is not the same folder for process {odd[0]} as for process 0: give '
                   'one that all hosts share')
