"""Score distillation sampling on the toybox, as published: every draw independent of the others.

  python -m jaxdreamer.train --config=configs/sds.py --config.prompt="a purple house"
"""
from jaxdreamer.configs import toybox


def get_config(prior='toybox'):
  config = toybox.get_config(prior)
  config.sampling.design = 'independent'
  return config
