"""One generator for the toybox: 447 captions, and compositions of them that it never sees, by ASD on the shipped prior.

  python -m jaxdreamer.train --config=configs/toybox_amortised.py --workdir=runs/generator
  python -m jaxdreamer.generate --workdir=runs/generator --prompt="a pink teapot"

`configs/toybox_amortised.py:sds` (csd, vsd) trains it by another estimator. Device, time and scores to expect: README.md.
"""
from configs import base


def get_config(estimator='asd'):
  config = base.get_config()
  config.corpus.path = 'toybox'
  config.estimator.name = estimator
  config.scene.name = 'triplane_transformer'
  config.steps, config.preview_every, config.checkpoint_every = 12000, 500, 500
  config.corpus.prompts, config.sampling.views, config.render.stages = 4, 8, ((0, 32),)
  config.optim.groups = (('scene/field/.*', 1e-3), ('scene/.*', .005), ('est/moments/.*', .05, 'sgd'), ('est/.*', .001))
  config.optim.b1 = 0.                           # a step's prompts are not the last step's: ScaleDreamer's (0, .99)
  config.regularizers.eikonal = (1., .01, 1200)
  return config
