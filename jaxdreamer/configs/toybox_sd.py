r"""A caption of the toybox by the way of published models: the shipped small Stable Diffusion,
which knows no cameras, only the words 'front view' and their like.

  python -m jaxdreamer.train --config=configs/toybox_sd.py --config.prompt="a yellow mug"

`configs/toybox_sd.py:vsd` takes another estimator, with its settings for the toybox. The weights
are read, guided, encoded into and adapted by what serves the published ones; nothing here is
special but their size.
"""
import importlib


def get_config(estimator='sds'):
  module = 'toybox' if estimator == 'sds' else estimator
  config = importlib.import_module(f'jaxdreamer.configs.{module}').get_config()
  config.prior.name, config.prior.path = 'stable_diffusion', 'toybox-sd'
  config.prior.stable_diffusion.dtype = 'float32'
  return config
