r"""A caption of the toybox becomes a mesh of triangles, drawn as such in every step.

  python -m jaxdreamer.train --config=configs/toybox_dmtet.py --config.prompt="a red car"

`configs/toybox_dmtet.py:empirical` distils the perfect prior instead, see toybox.py.
"""
from jaxdreamer.configs import base, toybox


def get_config(prior='toybox'):
  config = toybox.get_config(prior)
  config.scene.name = 'dmtet'
  rest = config.optim.groups[1:]
  config.optim.groups = base.of_steps(config, lambda steps: (
    ('scene/field/sdf/.*', (.01, .002, steps // 2, steps - steps // 2)),
    ('scene/field/deformation', .003), ('scene/field/texture/.*', .05), *rest))
  config.regularizers.update(normal_consistency=(10.,), laplacian=(10.,))
  return config
