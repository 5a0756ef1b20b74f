r"""SSD with Stable Diffusion: Stein control variates from a depth or a normal estimator, their
weights learned with the scene. The paper gives neither scale nor steps: they are DreamFusion's, as
configs/dreamfusion_sd.py has them.
`--config.estimator.ssd.depth=PATH` names a published estimator, a folder of Depth Anything or
DPT-Hybrid or a file of MiDaS or Omnidata; without it the toybox's small one looks.

  python -m jaxdreamer.train --config=configs/steindreamer_sd.py --config.prior.path=FOLDER \
      --config.prompt="a lion fish"
  python -m jaxdreamer.train --config=configs/steindreamer_sd.py:normals --config.prior.path=FOLDER
"""
from jaxdreamer.configs import dreamfusion_sd


def get_config(phi='depth'):
  config = dreamfusion_sd.get_config()
  config.estimator.name = 'ssd'
  config.estimator.ssd.update({'guidance': (101.,), 'phi': ('constant', phi)})
  return config
