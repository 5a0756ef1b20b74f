"""One step of score distillation, and how it is laid over devices. Read this file first.

    sample views -> render -> encode -> residual r -> one pullback carries r and the regularizers to the scene
    -> the estimator's own gradient -> pmean over devices -> one optax chain

`local_step` is the program of one device: it sees its own views and the named axis `data`, and communicates once. Random
numbers are folded from (key, step, view), so that they do not depend on how many devices there are.
"""
from typing import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from jaxdreamer import cameras, sampling
from jaxdreamer.types import Estimator, Prior, Scene, Text, TrainState, Views


def look(text: Text, camera) -> Views:
  """What the prior is told of a batch of cameras [V]: the prompt with the words of each view."""
  each = lambda row: jnp.broadcast_to(row, (camera.azimuth.shape[0], *row.shape))
  return Views(camera, text.views[cameras.view_bin(camera.azimuth, camera.elevation)], each(text.plain), each(text.null),
               each(text.negative))


def make_local_step(*, scene: Scene, estimator: Estimator, tx: optax.GradientTransformation, views: int, design: Callable,
                    camera_from: Callable, draw: Callable, render: Callable, regularize: Callable) -> Callable:
  """(state, prior, text, ids [local views]) -> (state, info).

  `design` spreads (azimuth, elevation, distance, fov, t) over the step's `views` views; `camera_from` (u [4]) -> Camera;
  `draw` (key, u, ids, step) -> Draws; `render` (code, camera, key, step) -> Rendering;
  `regularize` (Rendering [V, H, W], step) -> [].
  """
  def local_step(state: TrainState, prior: Prior, text: Text, ids):
    k_where, k_draw, k_render = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
    u = design(k_where, ids, views=views, dims=5)
    camera = jax.vmap(camera_from)(u[:, :4])
    draws = draw(k_draw, u[:, 4], ids, state.step)
    told = look(text, camera)
    params = jax.tree.map(vary, state.params)

    def picture(params):
      code = scene.focus(scene.prepare(params, text), state.step)
      shown = jax.vmap(lambda camera, key: render(code, camera, key, state.step))(camera, sampling.by_view(k_render, ids))
      return prior.encode(shown.rgb), regularize(shown, state.step), shown

    z, pullback, shown = _split_vjp(picture, params['scene'])
    told = told._replace(shown=jax.lax.stop_gradient(shown))
    r, info = estimator.residual(draws, params['est'], prior, z[0], told, state.step)
    grad_scene, = pullback((r / ids.size, jnp.ones_like(z[1])))
    loss, grad_est = jax.value_and_grad(
        lambda est: estimator.loss(draws, est, prior, jax.lax.stop_gradient(z[0]), told, state.step))(params['est'])
    info = info | {'opacity': jnp.mean(shown.opacity), 'regularizer': z[1], 'estimator_loss': loss}
    info = jax.tree.map(lambda v: v + 0. * ids[0], info)         # constants too become this device's own, as pmean wants
    grads, info = jax.lax.pmean(({'scene': grad_scene, 'est': grad_est}, info), 'data')

    updates, opt = tx.update(grads, state.opt, state.params)
    norm = optax.tree.norm(grads)
    info = info | {'gradient_norm': norm, 'finite': jnp.isfinite(norm).astype(jnp.float32)}
    return state.replace(step=state.step + 1, params=optax.apply_updates(state.params, updates), opt=opt), info

  return local_step


def _split_vjp(f, x):
  """vjp of the first two outputs of f; the third is only looked at."""
  def two(x):
    a, b, seen = f(x)
    return (a, b), seen
  y, pullback, seen = jax.vjp(two, x, has_aux=True)
  return y, pullback, seen


def vary(p):
  """A replicated array made the device's own: the gradient of one that is not is already summed over devices."""
  return jax.lax.pcast(p, 'data', to='varying')


def several(local_step: Callable, n: int) -> Callable:
  """`n` steps in one program; info is their mean. On a CPU keep n = 1: XLA's convolutions are some forty times slower
  inside a compiled loop there."""
  if n == 1:
    return local_step
  def steps(state, prior, text, ids):
    state, info = jax.lax.scan(lambda s, _: local_step(s, prior, text, ids), state, None, n)
    return state, jax.tree.map(jnp.mean, info)
  return steps


def data_parallel(local_step: Callable, mesh: jax.sharding.Mesh, *, how: str = 'shard_map') -> Callable:
  """local_step over the mesh axis `data`: (state, prior, text, ids [views]) -> (state, info), jitted, state donated.

  `how` = 'pmap' runs the same program under jax.pmap.
  """
  if how == 'pmap':
    mapped = jax.pmap(local_step, axis_name='data', in_axes=(None, None, None, 0), out_axes=None,
                      devices=list(mesh.devices.flat))
    n = mesh.devices.size
    return lambda state, prior, text, ids: mapped(state, prior, text, ids.reshape(n, -1))
  sharded = jax.shard_map(local_step, mesh=mesh, in_specs=(P(), P(), P(), P('data')), out_specs=(P(), P()))
  return jax.jit(sharded, donate_argnums=0)
