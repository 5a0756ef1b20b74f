"""How a step is laid over devices: the named axis `data`, and all the communication there is."""
from typing import Any, Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

Step = Callable[..., tuple[Any, Any]]            # (state, prior, text, ids [views]) -> state, info


def in_order(x):
  """The mean over devices, added in their order whatever process each belongs to. How pmean adds
  depends on that where a CPU talks to another, and Adam makes whole steps of the last digits of a
  gradient that is almost zero. Costs a sum of n times x."""
  n = jax.lax.axis_size('data')
  own = jnp.arange(n) == jax.lax.axis_index('data')
  # x + 0 is exact
  rows = jax.lax.psum(jnp.where(own.reshape(n, *[1] * x.ndim), x, jnp.zeros_like(x)), 'data')
  return jnp.mean(rows, 0)


def average(tree, *, ordered: bool):
  """The mean over devices of all arrays; `ordered` by in_order."""
  return jax.tree.map(in_order, tree) if ordered else jax.lax.pmean(tree, 'data')


def vary(tree):
  """Replicated arrays made the device's own: the gradient of one that is not is already summed over
  devices."""
  return jax.tree.map(lambda p: jax.lax.pcast(p, 'data', to='varying'), tree)


def scan_steps(local_step: Step, n: int) -> Step:
  """`n` steps in one program; info is their mean. On a CPU keep n = 1: XLA's convolutions are some
  forty times slower inside a compiled loop there."""
  if n == 1:
    return local_step
  def steps(state, prior, text, ids):
    state, info = jax.lax.scan(lambda s, _: local_step(s, prior, text, ids), state, None, n)
    return state, jax.tree.map(jnp.mean, info)
  return steps


def data_parallel(local_step: Step, mesh: jax.sharding.Mesh, *, how: str = 'shard_map',
                  many: bool = False) -> Step:
  """local_step over the mesh axis `data`, jitted, the state donated. The text of `many` prompts is
  shared out as the views are. `how` = 'pmap' runs the same program under jax.pmap."""
  if how == 'pmap':
    mapped = jax.pmap(local_step, axis_name='data', in_axes=(None, None, 0 if many else None, 0),
                      out_axes=None, devices=list(mesh.devices.flat))
    split = lambda a: a.reshape(mesh.devices.size, -1, *a.shape[1:])
    return lambda state, prior, text, ids: mapped(
      state, prior, jax.tree.map(split, text) if many else text, split(ids))
  sharded = jax.shard_map(local_step, mesh=mesh, in_specs=(P(), P(), P('data') if many else P(),
                                                           P('data')), out_specs=(P(), P()))
  return jax.jit(sharded, donate_argnums=0)


def single_device(local_step: Step, *, views: int) -> Callable[..., tuple[Any, Any]]:
  """(state, prior, text) -> (state, info): `local_step` of all `views` on the first device, jitted,
  the state donated."""
  mesh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
  step = data_parallel(local_step, mesh)
  return lambda state, prior, text: step(state, prior, text, jnp.arange(views))
