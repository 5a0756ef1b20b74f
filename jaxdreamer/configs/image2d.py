"""The 2D playground: the prior is distilled into one picture, seen from one place. Cheap, and the
truth is known.

  python -m jaxdreamer.playground --config=configs/image2d.py --config.prompt="a red car"
"""
from jaxdreamer.configs import toybox


def get_config(prior='toybox'):
  config = toybox.get_config(prior)
  config.scene.name = 'image'
  config.steps = 500
  config.cameras.update(azimuth=(30., 30.), elevation=(20., 20.), distance=(3., 3.))
  config.optim.groups = (('scene/field/.*', .03), *config.optim.groups[1:])
  return config
