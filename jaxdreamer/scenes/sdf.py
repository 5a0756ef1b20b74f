"""What scenes of a signed distance share: what they start as, and how a distance becomes opaque.

VolSDF's is a density, NeuS's an opacity of sections of a ray; both grow sharper along the run: a
soft surface moves far, a sharp one has crisp edges.
"""
from typing import Callable

import jax
from jaxtyping import Array

from jaxdreamer.scenes import neus, volsdf
from jaxdreamer.scenes.shapes import Start
from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Code, Init, Prepare, Scene

# density of a distance, and clearness where it has one
DENSITIES = {'volsdf': (volsdf.density, None), 'neus': (neus.density, neus.clearness)}


def scene(init: Init, prepare: Prepare, raw: Callable[[Code, Array], Array], *, start: Start,
          density: str, sharpness: Schedule,
          focus: Callable[[Code, Array], Code] = lambda code, step: code) -> Scene:
  """The Scene with the distance start.distance + raw[0] and the features sigmoid(raw[1:]), where
  raw (code, xyz [3]) -> [1 + F]."""
  opaque, clear = DENSITIES[density]

  def focused(code, step):
    own, begun = code
    return focus(own, step), begun, at(sharpness, step)

  def signed(code, xyz):
    own, begun, _ = code
    values = raw(own, xyz)
    return values[0] + start.distance(begun, xyz), values[1:]

  def field(code, xyz):
    distance, features = signed(code, xyz)
    return opaque(distance, sharpness=code[2]), jax.nn.sigmoid(features)

  def clearness(code, xyz):
    return clear(signed(code, xyz)[0], sharpness=code[2])

  return Scene(lambda key: init(key) | start.init(),
               lambda params, y: (prepare(params, y), start.prepare(params)), field, focused,
               distance=lambda code, xyz: signed(code, xyz)[0],
               clearness=clearness if clear else None)
