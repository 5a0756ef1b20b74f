"""A coordinate network: sines and cosines of the position -> residual MLP. Smooth, small, slow.

DreamFusion A.2: 8 octaves, 5 residual blocks of 128 units with SiLU and layer norm between.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.scenes import fields
from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Scene


def layer_norm(h: Float[Array, 'n']) -> Float[Array, 'n']:
  """h with mean 0 and variance 1; no scale or bias is learned."""
  h = h - jnp.mean(h)
  return h * jax.lax.rsqrt(jnp.mean(h * h) + 1e-6)


def blurred(params: dict, variance: Float[Array, ''] | float) -> dict:
  """Integrated encoding (mip-NeRF Eq. 13) of a Gaussian of this variance around each point:
  DreamFusion lowers it from 5e-2 to 2e-3 in the first third. It scales octave k by exp(-4^k
  variance / 2), which the first layer takes in once."""
  kernel = params['encode']['kernel']
  n = kernel.shape[0] // 6
  fade = jnp.repeat(jnp.exp(-.5 * 4. ** jnp.arange(n) * variance), 6)
  return {**params, 'encode': {**params['encode'], 'kernel': kernel * fade[:, None]}}


def mlp(*, octaves: int = 6, width: int = 64, blocks: int = 2, features: int = 3,
        activation: str = 'softplus', blob: str = 'cone', strength: float = 8., radius: float = .45,
        blur: Schedule = (0.,)) -> Scene:
  """Encoding -> linear -> `blocks` times h + W silu(V norm(h)) -> density and features.

  Args:
    octaves: of the encoding.
    width: units of each layer.
    blocks: residual blocks.
    features: channels beside the density; the first three are the color.
    activation: of the density.
    blob: 'cone' or 'gauss', what a scene starts from.
    strength, radius: of the blob, before the activation.
    blur: variance of `blurred`, a schedule; (5e-2, 2e-3, 100) starts with a smooth scene.
  """
  activate, bias = fields.ACTIVATIONS[activation], fields.BLOBS[blob]

  def init(key: Key[Array, '']):
    k_encode, k_out, *k_blocks = jax.random.split(key, 2 + 2 * blocks)
    layers = {f'block_{i}': {'inner': fields.dense_init(k_blocks[2 * i], width, width),
                             'outer': fields.dense_init(k_blocks[2 * i + 1], width, width,
                                                        gain=1. / blocks)}
              for i in range(blocks)}
    return {'encode': fields.dense_init(k_encode, 6 * octaves, width), **layers,
            'out': fields.dense_init(k_out, width, 1 + features, gain=.1)}

  def prepare(params, y):
    return params

  def field(code, xyz):
    h = fields.dense(code['encode'], fields.octaves(xyz, octaves).reshape(-1))
    for i in range(blocks):
      block = code[f'block_{i}']
      h = h + fields.dense(block['outer'], jax.nn.silu(fields.dense(block['inner'], layer_norm(h))))
    raw = fields.dense(code['out'], layer_norm(h))
    return fields.split_raw(raw, bias(xyz, strength=strength, radius=radius), activate)

  def focus(code, step):
    return blurred(code, at(blur, step))

  return Scene(init, prepare, field, focus)
