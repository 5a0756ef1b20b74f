r"""SSD with Stable Diffusion, a scene that one stands in: what configs/prolificdreamer_scene_sd.py
has, by SSD with normals, as SteinDreamer shows its scenes. The paper gives neither scale nor steps:
the scale is DreamFusion's.
`--config.estimator.ssd.normals=PATH` names Omnidata's normals; without it the toybox's small
estimator looks.

  python -m jaxdreamer.train --config=configs/steindreamer_scene_sd.py \
      --config.prior.path=FOLDER --config.prompt="inside of a smart home, realistic detailed photo"
"""
from jaxdreamer.configs import prolificdreamer_scene_sd, steindreamer_sd


def get_config():
  config = prolificdreamer_scene_sd.get_config()
  config.estimator.update(steindreamer_sd.get_config('normals').estimator)
  return config
