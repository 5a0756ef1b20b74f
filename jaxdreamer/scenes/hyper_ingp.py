"""Hyper-iNGP (ScaleDreamer, Ma et al. 2024): one hash grid for all prompts, and a hypernetwork that
writes each prompt's two small networks of its features.

Only the kernels depend on the prompt. So put prepare and field under one vmap over prompts, which
leaves the tables one array; a vmapped prepare alone returns them once a prompt.
"""
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.scenes import hashgrid, volsdf
from jaxdreamer.types import Scene

xavier = nn.initializers.xavier_normal()


class Hypernet(nn.Module):
  """The embedding of a prompt -> kernels of these shapes, linear in the hidden units."""
  shapes: tuple[tuple[int, int], ...]
  width: int

  @nn.compact
  def __call__(self, pooled: Float[Array, 'D']) -> list:
    h = nn.Dense(self.width, use_bias=False, kernel_init=xavier, name='proj_in')(pooled)
    h = nn.silu(nn.LayerNorm(1e-5, use_fast_variance=False, name='norm')(h))
    sizes = [math.prod(shape) for shape in self.shapes]
    flat = nn.Dense(sum(sizes), kernel_init=xavier, name='proj_out')(h)
    starts = [sum(sizes[:i]) for i in range(1, len(sizes))]
    return [part.reshape(shape) for part, shape in zip(jnp.split(flat, starts), self.shapes)]


def hyper_ingp(*, text: int = 128, levels: int = 8, per_level: int = 2, log2_table: int = 14,
               base: int = 8, finest: int = 128, width: int = 64, hidden: int = 64,
               radius: float = .5, extent: float = 1.) -> Scene:
  """A hash grid that prompts share, and networks of each prompt's own.

  Args:
    text: size of y.pooled.
    levels, per_level, log2_table, base, finest: of the grid, as scenes/hashgrid.py's.
    width: units of a prompt's networks, which have one layer.
    hidden: units of the hypernetwork, which has one too.
    radius: of the sphere that a scene starts from.
    extent: half a side of the cube that the levels fill.
  """
  sizes = [hashgrid.resolution(l, levels=levels, base=base, finest=finest) for l in range(levels)]
  n = levels * per_level
  net = Hypernet(((n, width), (width, 1), (n, width), (width, 3)), hidden)

  def init(key: Key[Array, '']):
    k_tables, k_net = jax.random.split(key)
    return {'tables': hashgrid.init_tables(k_tables, sizes, per_level=per_level,
                                           log2_table=log2_table),
            'hypernet': net.init(k_net, jnp.zeros(text))['params']}

  def prepare(params, y):
    layers = net.apply({'params': params['hypernet']}, y.pooled)
    return {'tables': params['tables'], 'sdf': layers[:2], 'rgb': layers[2:]}

  def encode(code, xyz):
    return hashgrid.encode(code['tables'], xyz / extent, sizes=sizes)

  return volsdf.surface(init, prepare, encode, radius=radius)
