r"""A caption of the toybox becomes a mesh in three stages, as ProlificDreamer goes about it: a
field, then its surface as triangles, judged by their normals, then colors on the surface that is
found.

  python -m jaxdreamer.train --config=configs/toybox_mesh.py:empirical \
      --config.prompt="a green cone on a yellow cylinder"

`empirical` is the perfect prior, see toybox.py, which shows normals to the second stage. The
shipped prior has learned colors alone: with it the second stage is judged by colors.
"""
from jaxdreamer.configs import toybox


def get_config(prior='toybox'):
  config = toybox.get_config(prior)
  _, *rest = config.optim.groups
  geometry, texture = 'scene/field/(sdf|deformation)/?.*', 'scene/field/texture/.*'
  config.stages = ('field', 'geometry', 'texture')
  mesh = {'scene': {'name': 'dmtet'}}
  config.stage.geometry = mesh | {
    'steps': 100, 'render': {'kind': 'normal' if prior == 'empirical' else 'color'},
    'regularizers': {'normal_consistency': (10.,), 'laplacian': (10.,)},
    'optim': {'groups': ((geometry, (.02, .002, 50, 50)), (texture, .01), *rest)}}
  config.stage.texture = mesh | {
    'steps': 50,
    'optim': {'groups': ((texture, (.02, .002, 25, 25)), ('scene/field/.*', 0.), *rest)}}
  return config
