"""The same functions on two devices, held against each other: a GPU's numbers against the CPU's in
one process. tests/test_gpu.py runs them, and benchmarks.gpu."""
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import full_size
from jaxdreamer import cameras, render
from jaxdreamer.nn import attention, vae
from jaxdreamer.scenes import hashgrid
from jaxdreamer.weights import model_shapes

KEY = 0


class Case(NamedTuple):
  """A function, its arguments, and how far apart two devices may be, as a share of its length."""
  f: Callable
  args: Any
  tolerance: float
  # of its matrix products, where they are float32: a GPU's own choice is ten bits
  precision: str = 'highest'


def with_slopes(f):
  """f(*args), and the gradient of a sum over it by all of them."""
  def run(*args):
    out, pullback = jax.vjp(f, *args)
    return out, pullback(jnp.cos(out.astype(jnp.float32)).astype(out.dtype))
  return run


def fused_attention():
  """Of half precision, which a GPU's own kernels take."""
  qkv = (jax.random.normal(k, (2, 256, 4, 40)).astype(jnp.bfloat16)
         for k in jax.random.split(jax.random.key(KEY), 3))
  return Case(with_slopes(attention.softmax_mixed), tuple(qkv), 2e-2)


def unet_of(dtype, tolerance):
  """A small UNet and its gradient by the sample."""
  def make():
    config, side = full_size.unets(tiny=True)['sd15']
    params = full_size.drawn(jax.random.key(KEY), full_size.unet_shapes(config, side))
    params = jax.tree.map(lambda x: (3. * x).astype(dtype), params)
    z, t, text = full_size.unet_inputs(config, side, 2)
    apply = full_size.apply_unet(config, dtype)
    return Case(lambda params, z, t, text: with_slopes(
      lambda z: apply(params, z, t, text))(z), (params, z, t, text), tolerance)
  return make


def encoder():
  """A small autoencoder's latents, and their gradient by the picture."""
  config = vae.config_from_diffusers(model_shapes.VAE | full_size.VAE)
  network, x = vae.AutoencoderKL(config), jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
  shapes = jax.eval_shape(network.init, jax.random.key(KEY), x)['params']
  params = jax.tree.map(lambda x: 3. * x, full_size.drawn(jax.random.key(KEY), shapes))
  def latent(params, x):
    return with_slopes(lambda x: network.apply({'params': params}, x, method='encode').mean)(x)
  return Case(latent, (params, x), 1e-3)


def hash_grid():
  """Features of many points, and what they add up to in the tables."""
  k_tables, k_points = jax.random.split(jax.random.key(KEY))
  sizes = [8, 16, 64]
  tables = hashgrid.init_tables(k_tables, sizes, per_level=2, log2_table=12)
  xyz = jax.random.uniform(k_points, (4096, 3), minval=-1., maxval=1.)
  def features(tables):
    return jax.vmap(lambda point: hashgrid.encode(tables, point, sizes=sizes))(xyz)
  return Case(with_slopes(features), (tables,), 1e-3)


def picture():
  """A picture of a hash grid, and its gradient."""
  scene = hashgrid.hashgrid(levels=3, log2_table=10, width=16)
  params = scene.init(jax.random.key(KEY))
  camera = cameras.orbital(.4, .3, 3., .7)
  def rgb(params):
    return render.image(jax.random.key(1), lambda xyz: scene.field(params, xyz), camera, size=16,
                        samples=8, fine=8).rgb
  return Case(with_slopes(rgb), (params,), 1e-2)


def step():
  """The gradient of a step of SDS, and what it is to Adam."""
  with full_size.models(tiny=True):
    config = full_size.config('dreamfusion_sd', tiny=True)
    training = full_size.training(config)
    text = full_size.drawn(jax.random.key(1), training.text(0))
  prior = training.prior.replace(weights=full_size.drawn(jax.random.key(KEY),
                                                         training.prior.weights))
  state, parts = training.init(jax.random.key(2)), training.parts
  def one(params, opt, prior, text):
    drawn = parts.sample(jax.random.key(3), jnp.arange(1), 0)
    gradient, _ = parts.gradient(params, prior, text, *drawn, 0)
    _, opt = parts.tx.update(gradient, opt, params)
    return gradient, opt
  return Case(one, (state.params, state.opt, prior, text), 1e-2)


CASES = {'attention': fused_attention, 'unet': unet_of('float32', 1e-3),
         'unet in bfloat16': unet_of('bfloat16', 5e-2), 'encoder': encoder,
         'hash grid': hash_grid, 'render': picture, 'step': step}


def run(case, device, options=None):
  """Its result on a device, as numpy arrays, compiled by XLA's `options`."""
  with jax.default_device(device), jax.default_matmul_precision(case.precision):
    # traced anew for each device
    run = jax.jit(lambda *args: case.f(*args), compiler_options=options)
    return jax.device_get(run(*jax.device_put(case.args, device)))


def apart(found, expected):
  """How far apart two results are, the worst of their arrays, as a share of its length; inf where
  one is not finite."""
  worst = 0.
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    far = float(jnp.linalg.norm((a - b).ravel())) / max(float(jnp.linalg.norm(b.ravel())), 1e-12)
    worst = max(worst, far) if far == far else float('inf')
  return worst


def difference(name, device, reference):
  """(how far a case of CASES is apart on the two devices, how far it may be)."""
  case = CASES[name]()
  return apart(run(case, device), run(case, reference)), case.tolerance
