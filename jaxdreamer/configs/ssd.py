"""Stein score distillation on the toybox.

  python -m jaxdreamer.train --config=configs/ssd.py --config.prompt="a yellow mug"
"""
from jaxdreamer.configs import toybox


def get_config(prior='toybox'):
  config = toybox.get_config(prior)
  config.estimator.name = 'ssd'
  return config
