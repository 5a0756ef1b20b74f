"""One step of score distillation, and how it is laid over devices. Read this file first.

    sample views -> render -> encode -> residual r, times w(t) p/q -> one pullback carries it and
    the regularizers to the scene -> the estimator's own gradient -> pmean over devices -> one optax
    chain

`local_step` is the program of one device: it sees its own views and the named axis `data`, and
communicates once. Random numbers are folded from (key, step, view), so that they do not depend on
how many devices there are.

A Text is of one prompt, or of P prompts with that axis first: then each has V / P of the views,
side by side, and the scene is a generator, whose parameters all of them share.
"""
from functools import partial
from typing import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from jaxdreamer import cameras, sampling
from jaxdreamer.diffusion import bcast
from jaxdreamer.types import Draws, Estimator, Prior, Scene, Text, TrainState, Views

NOISE = 64  # numbers that a generator's prompt is varied by: ScaleDreamer's 3DConv-Net
LATENT, MOVE = 101, 102  # what a view's key, and a step's, are folded with for more random numbers


def by_prompt(f: Callable) -> Callable:
  """(Text, *[V] arrays) -> [V] arrays for one prompt or many, of an `f` that is written for one."""
  def each(text: Text, *rows, **options):
    if text.plain.ndim == 2:
      return f(text, *rows, **options)
    prompts = text.plain.shape[0]
    split = lambda a: a.reshape(prompts, -1, *a.shape[1:])
    join = lambda a: a.reshape(-1, *a.shape[2:])
    return jax.tree.map(join, jax.vmap(partial(f, **options))(text, *jax.tree.map(split, rows)))
  return each


@by_prompt
def condition(text: Text, camera, *, words: Callable = cameras.view_bin) -> Views:
  """What the prior is told of a batch of cameras [V]: the prompt with the words of each view, which
  `words` (azimuth, elevation) -> row of text.views chooses."""
  each = lambda row: jnp.broadcast_to(row, (camera.azimuth.shape[0], *row.shape))
  return Views(camera, text.views[words(camera.azimuth, camera.elevation)], each(text.plain),
               each(text.null),
               each(text.negative), each(text.views))


def make_render_latents(*, scene: Scene, render: Callable, regularize: Callable,
                        words: Callable = cameras.view_bin) -> Callable:
  """(scene params, prior, text, camera [V], keys [V], step) -> (z [V h w c], regularizer [], Views,
  pullback).

  `render` (code, camera, key, step) -> Rendering; `regularize` (Rendering [V, H, W], step) -> [];
  `words` as condition's; pullback takes the cotangents of z and of the regularizer to the scene's
  params.
  """
  def picture(params, prior: Prior, text: Text, camera, keys, step):
    def see(params):
      @by_prompt
      def show(text, camera, keys):
        varied = text._replace(noise=jax.random.normal(jax.random.fold_in(keys[0], NOISE),
                                                       (NOISE,)))
        code = scene.focus(scene.prepare(params, varied), step)
        return jax.vmap(lambda camera, key: render(code, camera, key, step))(camera, keys)
      shown = show(text, camera, keys)
      drawn = jax.vmap(lambda key: jax.random.fold_in(key, LATENT))(keys)
      return (prior.sample(drawn, shown.rgb), regularize(shown, step)), shown
    (z, cost), pullback, shown = jax.vjp(see, params, has_aux=True)
    shown = jax.tree.map(jax.lax.stop_gradient, shown)
    return z, cost, condition(text, camera, words=words)._replace(
        rendering=shown), lambda r, scale: pullback((r, scale))[0]
  return picture


def weigh(estimator: Estimator, draws: Draws, prior: Prior) -> Draws:
  """The draws with weight w(t) p(t) / q(t)."""
  return draws._replace(weight=draws.weight * estimator.weight(prior.schedule, draws.t))


def residual(estimator: Estimator, draws: Draws, est, prior: Prior, z, views: Views, step):
  """(w(t) p(t) / q(t) r, info): the cotangents of N `draws` as sampled. The one place that weighs
  them, so that no estimator can forget to."""
  draws = weigh(estimator, draws, prior)
  r, info = estimator.residual(draws, est, prior, z, views, step)
  r = bcast(draws.weight, r) * r
  return r, info | {'residual_power': jnp.mean(r ** 2)}


def inner_products(picture: Callable, vectors, params, prior: Prior, text: Text, camera,
                   keys, step):
  """<J^T a_k, J^T a_l> over all of the scene's params, for M times K cotangents a [M, K, ...] at z
  of the first view: [M, K, K]."""
  first = lambda tree: jax.tree.map(lambda a: a[:1], tree)
  text = text if text.plain.ndim == 2 else first(text)
  _, cost, _, pullback = picture(params, prior, text, first(camera), keys[:1], step)
  pulled = jax.lax.map(lambda v: pullback(v[None], jnp.zeros_like(cost)),
                       vectors.reshape(-1, *vectors.shape[2:]))
  rows = lambda leaf: leaf.reshape(*vectors.shape[:2], -1)
  return sum(jnp.einsum('mka,mla->mkl', rows(leaf), rows(leaf), precision='highest')
             for leaf in jax.tree.leaves(pulled))


def make_gradient(*, picture: Callable, estimator: Estimator) -> Callable:
  """(params, prior, text, camera [V], draws [V M], keys [V], step) -> (gradient like params, info),
  with `picture` of make_render_latents. The M draws of a view share its render, and their residuals
  its pullback. The estimator's probe, if it has one, is of the first view, and counts `probes`
  times."""
  def gradient(params, prior: Prior, text: Text, camera, draws, keys, step, *, probes=1.):
    z, cost, told, pullback = picture(params['scene'], prior, text, camera, keys, step)
    views, each = len(keys), len(draws.t) // len(keys)
    opacity = jnp.mean(told.rendering.opacity)
    told, latent = jax.tree.map(lambda a: jnp.repeat(a, each, 0), (told, jax.lax.stop_gradient(z)))
    r, info = residual(estimator, draws, params['est'], prior, latent, told, step)
    grad_scene = pullback(jnp.mean(r.reshape(views, each, *r.shape[1:]), 1) / views,
                          jnp.ones_like(cost))
    draws = weigh(estimator, draws, prior)
    args = draws, params['est'], prior, latent, told, step
    loss, grad_est = jax.value_and_grad(lambda est: estimator.loss(draws, est, *args[2:]))(
        params['est'])
    if estimator.probe:
      # made of what r has computed already
      vectors = bcast(draws.weight, r)[:, None] * estimator.probe.vectors(*args)
      def probed(grad_est):
        products = inner_products(picture, vectors[:each], params['scene'], prior, text,
                                  camera, keys, step)
        of_first = jax.tree.map(lambda a: a[:each], draws)
        more = jax.grad(lambda est: estimator.probe.loss(products, of_first, est))(params['est'])
        return jax.tree.map(lambda g, m: g + probes * m, grad_est, more)
      grad_est = jax.lax.cond(step % estimator.probe.every == 0, probed, lambda grad_est: grad_est,
                              grad_est)
    return {'scene': grad_scene, 'est': grad_est}, info | {'opacity': opacity, 'regularizer': cost,
                                                           'estimator_loss': loss}
  return gradient


def make_sample(*, design: Callable, camera_from: Callable, draw: Callable, views: int,
                dims: int = 1,
                move: Callable | None = None) -> Callable:
  """(key, ids [local views], step) -> (camera [V], Draws, one key a view for rendering).

  `design` spreads (azimuth, elevation, distance, fov, t of `dims` draws) over the step's `views`
  views; `camera_from` (u [4]) -> Camera, which `move` (key, Camera, step) -> Camera may change;
  `draw` (key, u [V, dims], ids, step) -> Draws.
  """
  def sample(key, ids, step):
    k_where, k_draw, k_render = jax.random.split(key, 3)
    u = design(k_where, ids, views=views, dims=4 + dims)
    camera = jax.vmap(camera_from)(u[:, :4])
    if move:
      camera = jax.vmap(move, (0, 0, None))(sampling.by_view(jax.random.fold_in(key, MOVE), ids),
                                            camera, step)
    return camera, draw(k_draw, u[:, 4:], ids, step), sampling.by_view(k_render, ids)
  return sample


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


def make_local_step(*, sample: Callable, gradient: Callable, tx: optax.GradientTransformation,
                    ordered: bool = False) -> Callable:
  """(state, prior, text, ids [local views]) -> (state, info), from `sample` of make_sample and
  `gradient` of make_gradient; `ordered` as average's."""
  def local_step(state: TrainState, prior: Prior, text: Text, ids):
    camera, draws, keys = sample(jax.random.fold_in(state.key, state.step), ids, state.step)
    params = jax.tree.map(vary, state.params)
    # one view of the whole step's, however many devices there are
    probes = jax.lax.psum(1., 'data') * (ids[0] == 0)
    grads, info = gradient(params, prior, text, camera, draws, keys, state.step, probes=probes)
    # constants too become this device's own, as pmean wants
    info = jax.tree.map(lambda v: v + 0. * ids[0], info)
    grads, info = average((grads, info), ordered=ordered)

    updates, opt = tx.update(grads, state.opt, state.params)
    norm = optax.tree.norm(grads)
    info = info | {'gradient_norm': norm, 'finite': jnp.isfinite(norm).astype(jnp.float32)}
    return state.replace(step=state.step + 1, params=optax.apply_updates(state.params, updates),
                         opt=opt), info

  return local_step


def vary(p):
  """A replicated array made the device's own: the gradient of one that is not is already summed
  over devices."""
  return jax.lax.pcast(p, 'data', to='varying')


def scan_steps(local_step: Callable, n: int) -> Callable:
  """`n` steps in one program; info is their mean. On a CPU keep n = 1: XLA's convolutions are some
  forty times slower inside a compiled loop there."""
  if n == 1:
    return local_step
  def steps(state, prior, text, ids):
    state, info = jax.lax.scan(lambda s, _: local_step(s, prior, text, ids), state, None, n)
    return state, jax.tree.map(jnp.mean, info)
  return steps


def data_parallel(local_step: Callable, mesh: jax.sharding.Mesh, *, how: str = 'shard_map',
                  many: bool = False) -> Callable:
  """local_step over the mesh axis `data`: (state, prior, text, ids [views]) -> (state, info),
  jitted, state donated. The text of `many` prompts is shared out as the views are.

  `how` = 'pmap' runs the same program under jax.pmap.
  """
  if how == 'pmap':
    mapped = jax.pmap(local_step, axis_name='data', in_axes=(None, None, 0 if many else None, 0),
                      out_axes=None,
                      devices=list(mesh.devices.flat))
    share = lambda a: a.reshape(mesh.devices.size, -1, *a.shape[1:])
    return lambda state, prior, text, ids: mapped(state, prior, jax.tree.map(share, text) if many
                                                  else text, share(ids))
  sharded = jax.shard_map(local_step, mesh=mesh, in_specs=(P(), P(), P('data') if many else P(),
                                                           P('data')), out_specs=(P(), P()))
  return jax.jit(sharded, donate_argnums=0)
