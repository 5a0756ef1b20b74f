r"""A room of the toybox that one stands in, from a caption, by SDS on the perfect prior: the exact
posterior mean over renders of the room from inside.

  python -m jaxdreamer.train --config=configs/toybox_room.py \
      --config.prompt="a red car and a blue ball in a yellow room"

The shipped prior knows no rooms. Scores, and how to measure them: docs/inside.md.
"""
from jaxdreamer.configs import base, toybox
from jaxdreamer.toybox import rooms


def get_config():
  config = toybox.get_config('empirical')
  config.prompt = 'a red car and a blue ball in a yellow room'
  config.prior.empirical.images = 0    # few of any number would be seen from nearly the same place
  config.scene.sdf_voxels.update({'levels': (10, 19, 37, 73), 'extent': 2.8, 'radius': 2.4,
                                  'hollow': True})
  # a room is some three times as large as a toy, and so are its details
  config.scene.sdf_voxels.sharpness = base.of_steps(config, lambda steps: (4., 24., steps))
  config.optim.groups = base.of_steps(config, lambda steps: (
    ('scene/field/.*', (.02, .003, steps // 3, steps - steps // 3)), ('scene/.*', .005)))
  config.regularizers.eikonal = (3.,)
  config.cameras.update(rooms.CAMERAS)
  config.render.update({'radius': rooms.RADIUS, 'samples': 24, 'fine': 12, 'background': 'random'})
  config.eval.update({'samples': 32, 'fine': 24, 'inside': 1.8})
  return config
