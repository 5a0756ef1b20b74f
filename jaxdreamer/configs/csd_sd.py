r"""CSD (Yu et al. 2023) with Stable Diffusion: the released configs/csd-if.yaml, the NeRF stage.

  python -m jaxdreamer.train --config=configs/csd_sd.py --config.prior.path=FOLDER \
      --config.prompt="a delicious hamburger"

Beside what configs/sd.py says, this differs:
- prior: Stable Diffusion's latents; there DeepFloyd IF, on the pixels of the 64 px render.
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
  return config
