"""How a step is laid over devices: the named axes `data` and `model`, and all the communication
there is.

Views are shared out over both axes, so that no device repeats what another does. Along `model`
devices also share arrays (layout.py): what is cut is gathered where it is used, its gradient
comes back in parts, and the optimizer sees parts alone. Without such an axis there is one
collective a step.
"""
from typing import Any, Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxdreamer import layout
from jaxdreamer.layout import name
from jaxdreamer.optim import cut_over

Step = Callable[..., tuple[Any, Any]]            # (state, prior, text, ids [views]) -> state, info
Axes = tuple[str, ...]


def in_order(x, axes: Axes):
  """The mean over devices, added in their order whatever process each belongs to. How pmean adds
  depends on that where a CPU talks to another, and Adam makes whole steps of the last digits of a
  gradient that is almost zero. Costs a sum of n times x."""
  n = jax.lax.axis_size(axes)
  own = jnp.arange(n) == jax.lax.axis_index(axes)
  # x + 0 is exact
  rows = jax.lax.psum(jnp.where(own.reshape(n, *[1] * x.ndim), x, jnp.zeros_like(x)), axes)
  return jnp.mean(rows, 0)


def average(tree, *, axes: Axes, ordered: bool):
  """The mean over devices of all arrays, in one collective; `ordered` by in_order."""
  if not jax.tree.leaves(tree):
    return tree
  flat, back = ravel_pytree(tree)
  return back(in_order(flat, axes) if ordered else jax.lax.pmean(flat, axes))


def averages(grads, info, params, *, axes: Axes, ordered: bool):
  """The mean over devices of gradients of whole parameters, cut as `params` are, and of `info`."""
  if ordered:
    grads, info = average((grads, info), axes=axes, ordered=True)
    return _map_cut(_own, grads, params), info
  # two trees, None where an array belongs to the other
  parts = jax.tree.map(lambda g, p: g if cut_over(p) else None, grads, params)
  whole = jax.tree.map(lambda g, p: None if cut_over(p) else g, grads, params)
  parts = _map_cut(lambda g, axis: jax.lax.psum_scatter(
    g, 'model', scatter_dimension=axis, tiled=True) / jax.lax.axis_size('model'), parts, params)
  parts = average(parts, axes=tuple(axis for axis in axes if axis != 'model'), ordered=False)
  whole, info = average((whole, info), axes=axes, ordered=False)
  return jax.tree.map(lambda p, w: w if p is None else p, parts, whole,
                      is_leaf=lambda x: x is None), info


def _own(x, axis: int):
  """This device's part of x along `axis`."""
  size = x.shape[axis] // jax.lax.axis_size('model')
  return jax.lax.dynamic_slice_in_dim(x, size * jax.lax.axis_index('model'), size, axis)


def _map_cut(f: Callable, tree, params):
  """`f` (array, axis) of those arrays whose parameter is cut along an axis, the others as they
  are."""
  def one(path, p, x):
    if x is None or not cut_over(p):
      return x
    spec = layout.cut(name(path))
    return f(x, x.ndim - len(spec) + spec.index('model'))
  return jax.tree_util.tree_map_with_path(one, params, tree, is_leaf=lambda x: x is None)


def gathered(tree):
  """The arrays, whole; the compiler puts each gathering where the array is first used."""
  return _map_cut(lambda x, axis: jax.lax.all_gather(x, 'model', axis=axis, tiled=True), tree, tree)


def vary(tree, axes: Axes):
  """Replicated arrays made the device's own: the gradient of one that is not is already summed over
  devices."""
  def own(x):
    missing = tuple(axis for axis in axes if axis not in cut_over(x))
    return jax.lax.pcast(x, missing, to='varying')
  return jax.tree.map(own, tree)


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
  """local_step over all axes of the mesh, jitted, the state donated. The text of `many` prompts is
  shared out as the views are. `how` = 'pmap' runs the same program under jax.pmap."""
  if how == 'pmap':
    mapped = jax.pmap(local_step, axis_name='data', in_axes=(None, None, 0 if many else None, 0),
                      out_axes=None, devices=list(mesh.devices.flat))
    split = lambda a: a.reshape(mesh.devices.size, -1, *a.shape[1:])
    return lambda state, prior, text, ids: mapped(
      state, prior, jax.tree.map(split, text) if many else text, split(ids))
  spread = P(mesh.axis_names)

  def step(state, prior, text, ids):
    at, weights = layout.specs(state, mesh), layout.specs(prior, mesh)
    return jax.shard_map(local_step, mesh=mesh, out_specs=(at, P()),
                         in_specs=(at, weights, spread if many else P(), spread))(
                           state, prior, text, ids)
  return jax.jit(step, donate_argnums=0)


def single_device(local_step: Step, *, views: int) -> Callable[..., tuple[Any, Any]]:
  """(state, prior, text) -> (state, info): `local_step` of all `views` on the first device, jitted,
  the state donated."""
  mesh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
  step = data_parallel(local_step, mesh)
  return lambda state, prior, text: step(state, prior, text, jnp.arange(views))
