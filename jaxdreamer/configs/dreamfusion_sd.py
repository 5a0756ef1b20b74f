"""SDS with Stable Diffusion 2.1-base, as threestudio's dreamfusion-sd: its scale 100 is 101 here.

  python -m jaxdreamer.train --config=configs/dreamfusion_sd.py --config.prior.path=FOLDER --config.prompt="a delicious hamburger"
"""
from jaxdreamer.configs import sd


def get_config():
  config = sd.get_config()
  config.estimator.sds.guidance = (101.,)
  config.render.shaded = (0., .75, 2000, 1)
  config.regularizers.update({'orientation': (10., 1000., 5000), 'sparsity': (1.,)})
  return config
