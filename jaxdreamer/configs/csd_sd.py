r"""CSD (Yu et al. 2023) with Stable Diffusion, in two stages: a field, the released
configs/csd-if.yaml, and its surface and colors refined, csd-sd-refine.yaml.

  python -m jaxdreamer.train --config=configs/csd_sd.py --config.prior.path=FOLDER \
      --config.prompt="a delicious hamburger"

Beside what configs/sd.py says, this differs:
- prior: Stable Diffusion's latents; there DeepFloyd IF, on the pixels of the 64 px render of the
  field.

`--config.stages=field` runs the first alone.
"""
from jaxdreamer.configs import sd


def get_config():
  config = sd.get_config()
  config.scene.hashgrid.update({'levels': 12, 'finest': 512})
  config.estimator.name = 'csd'
  config.estimator.csd.update({'omega2': (0., 1., 5000), 'normalize': True})
  config.negative_prompt = 'oversaturated color, ugly, tiling, low quality, noisy'
  config.perp_neg = 3.
  config.sampling.weight = 'uniform'
  config.sampling.t_max = (.98, .5, 5000, 1)
  config.cameras.front_back = 1000
  config.render.update({'shaded': (0., .5, 5000, 1), 'textureless': (1.,)})
  config.render.light.update({'distance': (1.5, 2.), 'relative': False, 'jitter': .1,
                              'normals': True})
  config.regularizers.update({'orientation': (1., 100., 5000), 'sparsity': (10., 1., 5000)})
  config.optim.groups = (('scene/.*', .001), *config.optim.groups[2:])
  config.optim.b2 = .999
  config.stages = ('field', 'refined')
  config.stage.refined = sd.triangles(256, shaded=(.5,)) | {
    'steps': 10000, 'estimator': {'csd': {'omega2': (1., .5, 10000), 'normalize': False}},
    'perp_neg': 0., 'sampling': {'weight': 'sigma2', 't_max': (.5,)},
    'cameras': {'front_back': 0},
    'regularizers': sd.NO_FOG | {'normal_consistency': (1e3,)}}
  return config
