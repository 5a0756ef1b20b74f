"""What an estimator learns from parameter space: inner products of cotangents that are pulled back
to the scene's parameters, of the first view of a step."""
import jax
import jax.numpy as jnp

from jaxdreamer.diffusion import bcast
from jaxdreamer.types import Prior, Probe, RenderLatents, Text


def inner_products(render_latents: RenderLatents, vectors, params, prior: Prior, text: Text, camera,
                   keys, step):
  """<J^T a_k, J^T a_l> over all of the scene's params, for M times K cotangents a [M, K, ...] at z
  of the first view: [M, K, K]."""
  first = lambda tree: jax.tree.map(lambda a: a[:1], tree)
  text = text if text.plain.ndim == 2 else first(text)
  _, cost, _, pullback = render_latents(params, prior, text, first(camera), keys[:1], step)
  pulled = jax.lax.map(lambda v: pullback(v[None], jnp.zeros_like(cost)),
                       vectors.reshape(-1, *vectors.shape[2:]))
  rows = jax.tree.map(lambda leaf: leaf.reshape(*vectors.shape[:2], -1), pulled)
  return jax.tree.reduce(jnp.add, jax.tree.map(
    lambda a: jnp.einsum('mka,mla->mkl', a, a, precision='highest'), rows))


def add(gradient, probe: Probe, render_latents: RenderLatents, params, prior: Prior, text: Text,
        camera, keys, args, *, probes):
  """`gradient` of est, at every `probe.every`-th step with that of probe.loss, `probes` times.
  `args` are residual's arguments (draws, est, prior, z, views, step) of the whole step."""
  draws, est, *_, step = args
  each = len(draws.t) // len(keys)
  # outside of the branch: made of what r has computed already
  vectors = bcast(draws.weight, draws.eps)[:, None] * probe.vectors(*args)

  def probed(gradient):
    products = inner_products(render_latents, vectors[:each], params, prior, text, camera, keys,
                              step)
    of_first = jax.tree.map(lambda a: a[:each], draws)
    more = jax.grad(lambda est: probe.loss(products, of_first, est))(est)
    return jax.tree.map(lambda g, m: g + probes * m, gradient, more)
  return jax.lax.cond(step % probe.every == 0, probed, lambda gradient: gradient, gradient)
