"""Penalties on a Rendering of any batch shape; each is a mean over rays, so its weight does not
depend on the image size."""
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.types import Rendering


def orientation(out: Rendering) -> Float[Array, '']:
  """Normals of visible points face the camera; mean over the rays that hit anything. Ref-NeRF Eq.
  11."""
  return jnp.sum(out.orientation) / jnp.maximum(jnp.sum(out.opacity > 1e-3), 1)


def opacity(out: Rendering) -> Float[Array, '']:
  """Empty space is free."""
  return jnp.mean(out.opacity)


def sparsity(out: Rendering) -> Float[Array, '']:
  """sqrt(o^2 + .01): as opacity, but lenient near 0 (threestudio; DreamFusion's opacity loss)."""
  return jnp.mean(jnp.sqrt(out.opacity ** 2 + .01))


def opaque(out: Rendering) -> Float[Array, '']:
  """Binary entropy: a ray hits or misses. Clamped to [1e-3, 1 - 1e-3], beyond which its gradient is
  0."""
  o = jnp.clip(out.opacity, 1e-3, 1. - 1e-3)
  return -jnp.mean(o * jnp.log(o) + (1. - o) * jnp.log1p(-o))


def distortion(out: Rendering) -> Float[Array, '']:
  """The weights of a ray are in one place. mip-NeRF 360 Eq. 15."""
  return jnp.mean(out.distortion)


def eikonal(out: Rendering) -> Float[Array, '']:
  """A signed distance has slope 1, along a ray alike. Gropp et al. (2020)."""
  return jnp.mean(out.eikonal)


def normal_consistency(out: Rendering) -> Float[Array, '']:
  """The vertices at both ends of an edge face alike: of meshes, see meshes/topology.py."""
  return jnp.mean(out.normal_consistency)


def laplacian(out: Rendering) -> Float[Array, '']:
  """A vertex lies amid its neighbors: of meshes, see meshes/topology.py."""
  return jnp.mean(out.laplacian)


def z_variance(out: Rendering) -> Float[Array, '']:
  """The variance of distance along the rays that mostly hit, over the part of them that does. HiFA
  Eq. 13."""
  hit = out.opacity > .5
  return jnp.sum(jnp.where(hit, out.z_variance / jnp.maximum(out.opacity, .5), 0.)) / jnp.maximum(
      jnp.sum(hit), 1)
