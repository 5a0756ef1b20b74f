"""What shows a trained scene: the functions behind its outputs, in which no prior has a part."""
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxdreamer import render, train_step
from jaxdreamer.types import Scene


def functions(key: Key[Array, ''], scene: Scene, *, step: int, size: int, samples: int, fine: int,
              radius: float,
              chunk: int | None) -> dict[str, Any]:
  """{'code', 'render', 'density', 'color', 'radius', 'size'}, as build.Job's: the scene as `step`
  sees it, renders of `size` pixels with `samples` and `fine` more along a ray, `chunk` rays at a
  time. `text` of code is None where the scene reads none."""

  @jax.jit
  def code(params, text):
    text = text and text._replace(noise=jnp.zeros(train_step.NOISE))
    return scene.focus(scene.prepare(params, text), step)

  @jax.jit
  def show(code, camera, background):
    return render.image(key, partial(scene.field, code), camera, size=size, samples=samples,
                        fine=fine, radius=radius, jitter=0.,
                        background=lambda direction: background, chunk=chunk)

  at = lambda code, xyz: jax.vmap(partial(scene.field, code))(xyz)
  return {'code': code, 'render': show, 'density': jax.jit(lambda code, xyz: at(code, xyz)[0]),
          'color': jax.jit(lambda code, xyz: at(code, xyz)[1][:, :3]), 'radius': radius,
          'size': size}


def reads_text(scene: Scene) -> bool:
  """Whether a scene is a generator: whether its code depends on the text."""
  try:
    jax.eval_shape(lambda key: scene.focus(scene.prepare(scene.init(key), None), 0),
                   jax.random.key(0))
  except (AttributeError, TypeError):
    return True
  return False
