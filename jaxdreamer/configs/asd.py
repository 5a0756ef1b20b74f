"""Asynchronous score distillation on the toybox: t's range falls over the run, as in ScaleDreamer.

  python -m jaxdreamer.train --config=configs/asd.py --config.prompt="a red car"
"""
from jaxdreamer.configs import base, toybox


def get_config(prior='toybox'):
  config = toybox.get_config(prior)
  config.estimator.name = 'asd'
  config.sampling.t_min = base.of_steps(config, lambda steps: (.5, .02, steps))
  config.sampling.t_max = base.of_steps(config, lambda steps: (.98, .5, steps))
  return config
