"""MVDream (Shi et al. 2023): Stable Diffusion 2.1's UNet, taught to draw several views of one scene
at a time.

It differs from UNet2DCondition in two things, both of which are options there: self-attention spans
the pixels of all views of a scene (`views`), and a vector of each view's camera, through two dense
layers, joins the embedding of time (class_embed_type 'projection'). Attention to the text stays
within a view.

    model = unet()
    eps_hat = model.apply(variables, z_t, timesteps, text, camera_vector(cameras))
Views of a scene follow each other in the batch [S * views, h, w, 4]; they should have one
elevation, distance and fov, and azimuths that divide the circle, for so the published weights were
trained.
"""
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.nn.unet import UNet2DCondition
from jaxdreamer.nn.unet_config import UNetConfig
from jaxdreamer.types import Camera

CAMERA = 16
CONFIG = UNetConfig(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
                    use_linear_projection=True,
                    class_embed_type='projection', projection_class_embeddings_input_dim=CAMERA)

# For loading, before the rows that serve any file of the LDM layout: MVDream's own two layers.
MVDREAM_RENAME = ((r'^(.*\.)?camera_embed\.0\.', 'class_embedding.linear_1.'),
                  (r'^(.*\.)?camera_embed\.2\.', 'class_embedding.linear_2.'))


def unet(*, views: int = 4, dtype: Any = jnp.float32, remat: bool = False,
         chunk: int | None = None) -> UNet2DCondition:
  """The network of sd-v2.1-base-4view (and, with views=1, of one picture); call it with camera
  vectors as class_labels."""
  return UNet2DCondition(CONFIG, dtype, views, remat, chunk)


def camera_vector(camera: Camera) -> Float[Array, 'V 16']:
  """What MVDream is told of each camera: world_from_camera, its translation of unit length, row by
  row.

  As in their code for 3D, which passes cameras of a world like ours: z is up, the camera looks down
  -z with y up, and stands at +x at azimuth 0. In their scripts for pictures that place has the
  azimuth 90, and is where the first picture is seen from by default. Field of view and distance are
  not told. UNVERIFIED on the published weights: that objects face +x.
  """
  rotation, position = camera.world_from_camera[:, :3, :3], camera.world_from_camera[:, :3, 3]
  length = jnp.sqrt(jnp.maximum(jnp.sum(position ** 2, -1, keepdims=True), 1e-12))
  top = jnp.concatenate([rotation, (position / length)[..., None]], -1)
  last = jnp.broadcast_to(jnp.array([0., 0., 0., 1.]), (len(top), 1, 4))
  return jnp.concatenate([top, last], 1).reshape(-1, CAMERA)
