"""One step of score distillation. Read this file first.

    sample views -> render -> encode -> residual r, times w(t) p/q -> one pullback carries it and
    the regularizers to the scene -> the estimator's own gradient -> mean over devices -> one optax
    chain

`local_step` is the program of one device: it sees its own views and the named axes of the mesh, and
communicates once (and as parallel.py says, where devices share arrays). Random numbers are folded
from (key, step, view), so that they do not depend on how many devices there are. With a Text of
many prompts (conditioning.py) the scene is a generator, whose parameters all of them share.
"""
import dataclasses
from typing import Any, Callable

import jax
import jax.numpy as jnp
import optax

from jaxdreamer import conditioning, optim, parallel, types
from jaxdreamer.diffusion import bcast
from jaxdreamer.types import Draws, Estimator, Prior, Scene, Text, TrainState, Views

NOISE = 64  # numbers that a generator's prompt is varied by: ScaleDreamer's 3DConv-Net
LATENT = 101  # what a view's key is folded with to draw its latent


def make_render_latents(*, scene: Scene, render: types.Render,
                        regularize: Callable[..., Any] = lambda rendering, step: 0.,
                        condition: Callable[..., Views] = conditioning.condition
                        ) -> types.RenderLatents:
  """(scene params, prior, text, camera [V], keys [V], step) -> (z [V h w c], regularizer [], Views,
  pullback).

  `render` (code, camera, key, step) -> Rendering; `regularize` (Rendering [V, H, W], step) -> [],
  by default nothing; `condition` (text, camera [V]) -> Views; pullback takes the cotangents of z
  and of the regularizer to the scene's params. A scene that makes its latents itself needs none.
  """
  if scene.latents:
    return scene.latents

  def render_latents(params, prior: Prior, text: Text, camera, keys, step):
    def encoded(params):
      @conditioning.by_prompt
      def rendered(text, camera, keys):
        noise = jax.random.normal(jax.random.fold_in(keys[0], NOISE), (NOISE,))
        code = scene.focus(scene.prepare(params, text._replace(noise=noise)), step)
        return jax.vmap(lambda camera, key: render(code, camera, key, step))(camera, keys)
      rendering = rendered(text, camera, keys)
      drawn = jax.vmap(lambda key: jax.random.fold_in(key, LATENT))(keys)
      return (prior.sample(drawn, rendering.rgb), regularize(rendering, step)), rendering
    (z, cost), pullback, rendering = jax.vjp(encoded, params, has_aux=True)
    views = condition(text, camera)._replace(
      rendering=jax.tree.map(jax.lax.stop_gradient, rendering))
    return z, cost, views, lambda r, scale: pullback((r, scale))[0]
  return render_latents


def residual(estimator: Estimator, draws: Draws, est, prior: Prior, z, views: Views, step):
  """(w(t) p(t) / q(t) r, info): the cotangents of N `draws`. The one place that weighs them, so
  that no estimator can forget to."""
  r, info = estimator.residual(draws, est, prior, z, views, step)
  r = bcast(draws.weight, r) * r
  return r, info | {'residual_power': jnp.mean(r ** 2)}


def make_gradient(*, render_latents: types.RenderLatents, estimator: Estimator) -> types.Gradient:
  """(params, prior, text, camera [V], draws [V M], keys [V], step) -> (gradient like params, info),
  with `render_latents` of make_render_latents. The M draws of a view share its render, and their
  residuals its pullback."""
  def gradient(params, prior: Prior, text: Text, camera, draws, keys, step):
    scene, est = params['scene'], params['est']
    z, cost, views, pullback = render_latents(scene, prior, text, camera, keys, step)
    n, each = len(keys), len(draws.t) // len(keys)
    opacity = jnp.mean(views.rendering.opacity)
    views, latent = jax.tree.map(lambda a: jnp.repeat(a, each, 0),
                                 (views, jax.lax.stop_gradient(z)))
    args = prior, latent, views, step
    r, info = residual(estimator, draws, est, *args)
    grad_scene = pullback(jnp.mean(r.reshape(n, each, *r.shape[1:]), 1) / n, jnp.ones_like(cost))
    loss, grad_est = jax.value_and_grad(lambda est: estimator.loss(draws, est, *args))(est)
    if views.rendering.dropped is not None:
      info = info | {'dropped': jnp.mean(views.rendering.dropped)}
    return {'scene': grad_scene, 'est': grad_est}, info | {
      'opacity': opacity, 'regularizer': cost, 'estimator_loss': loss}
  return gradient


def make_local_step(*, sample: types.Sample, gradient: types.Gradient,
                    tx: optax.GradientTransformation,
                    axes: parallel.Axes = ('data',), ordered: bool = False) -> parallel.Step:
  """(state, prior, text, ids [local views]) -> (state, info), from `sample` of sampling.make_sample
  and `gradient` of make_gradient; `axes` of the mesh, `ordered` as parallel.average's."""
  def local_step(state: TrainState, prior: Prior, text: Text, ids):
    camera, draws, keys = sample(jax.random.fold_in(state.key, state.step), ids, state.step)
    params = parallel.vary(parallel.gathered(state.params), axes)
    grads, info = gradient(params, parallel.gathered(prior), text, camera, draws, keys, state.step)
    # constants too become this device's own, as pmean wants
    info = jax.tree.map(lambda v: v + 0. * ids[0], info)
    grads, info = parallel.averages(grads, info, state.params, axes=axes, ordered=ordered)

    updates, opt = tx.update(grads, state.opt, state.params)
    info = info | {'gradient_norm': optim.norm(grads)}
    params = optax.apply_updates(state.params, updates)
    return dataclasses.replace(state, step=state.step + 1, params=params, opt=opt), info
  return local_step
