"""Regularizers, each (Rendering [...]) -> scalar; weights and their schedules are the caller's."""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.types import Rendering

Scalar = Float[Array, '']


def orientation(shown: Rendering) -> Scalar:
  """Ref-NeRF Eq. 11, summed over rays and divided by the rays that hit anything, as threestudio does."""
  hit = jnp.sum((shown.opacity > 0.).astype(jnp.float32))
  return jnp.sum(shown.orientation) / jnp.maximum(hit, 1.)


def opacity(shown: Rendering) -> Scalar:
  """Mean opacity: DreamFusion's penalty on filled space, linear."""
  return jnp.mean(shown.opacity)


def sparsity(shown: Rendering) -> Scalar:
  """mean sqrt(opacity^2 + .01), threestudio."""
  return jnp.mean(jnp.sqrt(shown.opacity ** 2 + .01))


def opaque(shown: Rendering) -> Scalar:
  """Mean binary entropy of opacity in nats, clamped to [1e-3, 1 - 1e-3]: 0 where every ray is clear or solid."""
  o = jnp.clip(shown.opacity, 1e-3, 1. - 1e-3)
  return -jnp.mean(o * jnp.log(o) + (1. - o) * jnp.log1p(-o))


def distortion(shown: Rendering) -> Scalar:
  """mip-NeRF 360 Eq. 15, mean over rays."""
  return jnp.mean(shown.distortion)


def z_variance(shown: Rendering) -> Scalar:
  """HiFA: variance of the hit distance, mean over rays of opacity above one half."""
  solid = jax.lax.stop_gradient((shown.opacity > .5).astype(jnp.float32))
  return jnp.sum(solid * shown.z_variance) / jnp.maximum(jnp.sum(solid), 1.)


REGULARIZERS = {f.__name__: f for f in (orientation, opacity, sparsity, opaque, distortion, z_variance)}
