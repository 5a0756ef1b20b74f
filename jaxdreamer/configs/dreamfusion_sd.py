r"""SDS with Stable Diffusion 2.1-base: threestudio's configs/dreamfusion-sd.yaml. Its scale 100 is
101 here.

  python -m jaxdreamer.train --config=configs/dreamfusion_sd.py --config.prior.path=FOLDER \
      --config.prompt="a delicious hamburger"

Beside what configs/sd.py says, this differs:
- hash levels: each new one fades in over its 500 steps, which has no jump; there it appears at
  their end.
- view words: of the jittered camera, as it stands; there of the camera before the jitter.
- outputs: films and meshes show the ball of radius 1.4, what threestudio's evaluation cameras see,
  not the scene's 2.
"""
from jaxdreamer.configs import sd


def get_config():
  config = sd.get_config()
  config.scene.hashgrid.update({'extent': 2., 'band': (8., 16., 2000, 4000)})
  config.estimator.sds.guidance = (101.,)
  config.cameras.update({'jitter': (.1, .2, .02), 'front': 45., 'back': 45.})
  config.render.update({'radius': 2., 'random_background': 0., 'shaded': (0., .75, 2000, 1)})
  config.render.light.update({'distance': (.8, 1.5), 'relative': False})
  config.regularizers.update({'orientation': (10., 1000., 5000), 'sparsity': (1.,)})
  config.optim.groups = (('scene/field/.*', .01), *config.optim.groups[1:])
  config.eval.radius = 1.4
  return config
