"""Variational score distillation on the toybox.

  python -m jaxdreamer.train --config=configs/vsd.py --config.prompt="a blue torus"
"""
from jaxdreamer.configs import toybox


def get_config(prior='toybox'):
  config = toybox.get_config(prior)
  config.estimator.name = 'vsd'
  return config
