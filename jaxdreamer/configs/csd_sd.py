"""CSD (Yu et al. 2023) with Stable Diffusion: the weights, times and negative prompt of its NeRF stage, which used DeepFloyd IF.

  python -m jaxdreamer.train --config=configs/csd_sd.py --config.prior.path=FOLDER --config.prompt="a delicious hamburger"
"""
from jaxdreamer.configs import sd


def get_config():
  config = sd.get_config()
  config.estimator.name = 'csd'
  config.estimator.csd.update({'negative': (0., 1., 5000), 'weight': 'uniform'})
  config.negative = 'oversaturated color, ugly, tiling, low quality, noisy'
  config.sampling.t_max = (.98, .5, 5000, 1)
  config.render.shaded = (0., .75, 5000, 1)
  config.regularizers.update({'orientation': (1., 100., 5000), 'sparsity': (10., 1., 5000)})
  return config
