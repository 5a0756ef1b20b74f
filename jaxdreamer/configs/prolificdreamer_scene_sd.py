r"""VSD with Stable Diffusion, a scene that one stands in: threestudio's
configs/prolificdreamer-scene.yaml.

  python -m jaxdreamer.train --config=configs/prolificdreamer_scene_sd.py \
      --config.prior.path=FOLDER --config.prompt="Inside of a smart home, realistic detailed photo"

Beside what configs/sd.py says, this differs:
- the LoRA's base: the prior itself, which halves memory; there the 768 px model, which predicts v.
- samples: 128 of a ray propose 128 that are trained; there 512.
- outputs: films stand at distance 2 and span 70 degrees, as threestudio's evaluation cameras do.
"""
from jaxdreamer.configs import sd


def get_config():
  config = sd.get_config()
  config.steps = 25000
  config.scene.hashgrid.update({'extent': 5., 'strength': -10., 'radius': 2.5})  # a hollow
  config.estimator.name = 'vsd'
  # the LoRA's rate, warmed up
  config.optim.groups = (*config.optim.groups[:-1], ('est/.*', (0., .0001, 500)))
  config.optim.weight_decay = .01
  config.sampling.t_max = (.98, .5, 10000, 1)
  config.cameras.update({'distance': (.1, 2.3), 'words': False})
  config.render.update({'radius': 5., 'samples': 128, 'fine': 128, 'random_background': 0.,
                        'stages': ((0, 64), (5000, 512)), 'chunk': 4096})
  config.regularizers.z_variance = (1.,)
  config.eval.inside = 2.
  return config
