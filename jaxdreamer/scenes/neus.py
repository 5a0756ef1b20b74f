"""Signed distances as opacities (NeuS, Wang et al. 2021): the light that comes as far as a point
whose distance is f is Phi(f), the logistic function of sharpness f, so that a ray is seen to end at
the surface whichever way it crosses it. VolSDF's density lets one that grazes a solid end before.
"""
import jax

from jaxdreamer.scenes import fields


def clearness(distance: fields.Scalar, *, sharpness: fields.Scalar | float) -> fields.Scalar:
  """log Phi. Where it falls along a section of a ray, 1 - exp(-what it falls by) is NeuS Eq. 13's
  opacity of the section; where it grows, on the way out, the opacity is 0."""
  return jax.nn.log_sigmoid(sharpness * distance)


def density(distance: fields.Scalar, *, sharpness: fields.Scalar | float) -> fields.Scalar:
  """By how much clearness falls a length on a ray that meets the surface head on: NeuS Eq. 10
  without the slope of the distance along the ray. For what knows no ray: meshes and normals."""
  return sharpness * jax.nn.sigmoid(-sharpness * distance)
