r"""The default: a caption of the toybox world becomes a 3D object, by SDS on the shipped prior.

  python -m jaxdreamer.train --config=configs/toybox.py \
      --config.prompt="a green cone on a yellow cylinder"

`configs/toybox.py:empirical` distils the exact posterior mean over renders of the caption instead:
the perfect prior.
Device, time and scores to expect: README.md, which the benchmarks write.
"""
from jaxdreamer.configs import base


def get_config(prior='toybox'):
  config = base.get_config()
  config.prior.name = prior
  config.steps = 150
  config.scene.name = 'sdf_voxels'
  for name in ('sdf_voxels', 'sdf_hashgrid'):
    config.scene[name].sharpness = base.of_steps(config, lambda steps: (10., 60., steps))
  rest = config.optim.groups[1:]
  # as the rate falls, the surface comes to rest
  config.optim.groups = base.of_steps(config, lambda steps: (
    ('scene/field/.*', (.05, .005, steps // 2, steps - steps // 2)), *rest))
  config.render.fine = 8                                  # samples on a surface: few are enough
  config.eval.samples, config.eval.fine = 16, 16
  # a dozen texels to a cell of the field; of so many faces each can have one of its own
  config.eval.faces, config.eval.texture = 8000, 512
  if prior == 'empirical':
    config.render.background = 'black_or_white'  # those its images have
    config.estimator.sds.guidance = (1.,)
  return config
