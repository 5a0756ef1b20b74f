"""Classifier score distillation on the toybox.

  python -m jaxdreamer.train --config=configs/csd.py --config.prompt="a red car"
"""
from jaxdreamer.configs import toybox


def get_config(prior='toybox'):
  config = toybox.get_config(prior)
  config.estimator.name = 'csd'
  return config
