r"""ASD with a small MVDream of the toybox, which sees cameras and four views of a scene at once:
configs/scaledreamer_mvdream.py at the toybox's size.

  python -m jaxdreamer.train --config=configs/toybox_mvdream.py --config.prior.path=FOLDER \
      --config.prompt="a red car"

FOLDER is what jaxdreamer/toybox/train_mvdream.py makes of the shipped toybox-sd; it is not shipped.
"""
from jaxdreamer.configs import asd


def get_config():
  config = asd.get_config()
  config.prior.name = 'mvdream'
  config.prior.mvdream.dtype = 'float32'
  config.sampling.update({'views': 4, 'design': 'rings'})
  config.cameras.words = False
  return config
