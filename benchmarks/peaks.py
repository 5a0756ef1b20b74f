"""What a device does at most, as it is measured: its matrix products and its copies; and how much
arithmetic a function asks for."""
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

CHAIN = 8                        # products, or copies, of one call


def seconds(run, *, least=.3, calls=3):
  """Of one call, which waits for its result: the best of several, none of them the first."""
  jax.block_until_ready(run())
  taken, end = [], time.monotonic() + least
  while len(taken) < calls or time.monotonic() < end:
    begin = time.perf_counter()
    jax.block_until_ready(run())
    taken.append(time.perf_counter() - begin)
  return min(taken)


def kind():
  """The type of matrix products that a device is bought for."""
  return jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16


def products(*, n, dtype):
  """(what multiplies square matrices, its FLOPs)."""
  a, b = (jax.random.normal(k, (n, n)).astype(dtype) / math.sqrt(n)
          for k in jax.random.split(jax.random.key(0)))
  def chain(a):
    for _ in range(CHAIN):
      a = a @ b
    return a
  run = jax.jit(chain)
  return lambda: run(a), CHAIN * 2. * n ** 3


def copies(*, n):
  """(what reads and writes `n` floats, CHAIN times, none of which the compiler can leave out, its
  bytes)."""
  step = jax.jit(lambda x: x + 1., donate_argnums=0)
  x = jnp.zeros(n)
  def run():
    nonlocal x
    for _ in range(CHAIN):
      x = step(x)
    return x
  return run, CHAIN * 2. * x.nbytes


def runs(*, tiny):
  """{'flops', 'bytes'}: what takes this device to its best, and how much of them that is."""
  large = jax.default_backend() != 'cpu' and not tiny
  return {'flops': products(n=8192 if large else 256 if tiny else 512, dtype=kind()),
          'bytes': copies(n=2 ** (28 if large else 16 if tiny else 24))}


def peaks(*, tiny):
  """{'flops', 'bytes'} a second of this device."""
  return {name: work / seconds(run) for name, (run, work) in runs(tiny=tiny).items()}


def matrix_flops(f, *args):
  """The arithmetic of the matrix products and convolutions of f(*args), two for each multiplication
  as it is written, whatever compiler and kernels make of it."""
  return _flops(jax.make_jaxpr(lambda *args: f(*args))(*args).jaxpr)       # traced anew


def _flops(jaxpr):
  total = 0.
  for eqn in jaxpr.eqns:
    name, times = eqn.primitive.name, eqn.params.get('length', 1) or 1
    if name == 'dot_general':
      (over, _), _ = eqn.params['dimension_numbers']
      lhs = eqn.invars[0].aval.shape
      total += 2. * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[i] for i in over)
    elif name == 'conv_general_dilated':
      kernel = eqn.invars[1].aval.shape
      out = eqn.params['dimension_numbers'].rhs_spec[0]
      total += 2. * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / kernel[out]
    branches = [_flops(inner) for inner in _inside(eqn.params)]
    total += max(branches) if name == 'cond' and branches else times * sum(branches)
  return total


def _inside(params):
  """The programs within an equation."""
  for value in params.values():
    for one in value if isinstance(value, (tuple, list)) else (value,):
      inner = getattr(one, 'jaxpr', one)
      if hasattr(inner, 'eqns'):
        yield inner


def rounded(figures, digits=4):
  """Figures for a file: `digits` that count."""
  return {name: float(np.format_float_positional(value, digits, fractional=False))
          if isinstance(value, float) else value for name, value in figures.items()}
