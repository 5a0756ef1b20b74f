"""Asynchronous score distillation on the toybox: t's range falls over the run, as in ScaleDreamer.

  python -m jaxdreamer.train --config=configs/asd.py --config.prompt="a red car"
"""
from jaxdreamer.configs import toybox


def get_config(prior='toybox'):
  config = toybox.get_config(prior)
  config.estimator.name = 'asd'
  config.sampling.t_min = (.5, .02, config.steps)
  config.sampling.t_max = (.98, .5, config.steps)
  return config
