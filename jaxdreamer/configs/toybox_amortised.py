"""One generator for the toybox: 447 captions, and compositions of them that it never sees, by ASD
on the shipped prior.

  python -m jaxdreamer.train --config=configs/toybox_amortised.py --workdir=runs/generator
  python -m jaxdreamer.generate --workdir=runs/generator --prompt="a pink teapot"

`configs/toybox_amortised.py:sds` (csd, vsd) trains it by another estimator. Device, time and scores
to expect: docs/generators.md.
"""
from jaxdreamer.configs import base

ROWS = {'sds': 2, 'csd': 2, 'ssd': 2, 'asd': 3, 'vsd': 6}     # of the prior's UNet for a view
ALL = 8 * 9000  # of them in a run, whatever the estimator


def get_config(estimator='asd'):
  config = base.get_config()
  config.corpus.path = 'toybox'
  config.estimator.name = estimator
  config.scene.name = 'triplane_transformer'
  config.corpus.prompts, config.sampling.views, config.render.stages = 8, 8, ((0, 32),)
  config.steps = ALL // (config.sampling.views * ROWS[estimator])
  config.preview_every, config.checkpoint_every = 500, 500
  config.eval.samples, config.eval.fine = 16, 12                # as in training, nearly
  rest = config.optim.groups[1:]

  def groups(steps):
    rate = lambda first: (first, .1 * first, steps // 2, max(steps // 2, 1))
    # All tokens share the upsampling kernel: at the others' rate it makes combs of their spacing.
    return (('scene/field/transformer/upsample/.*', rate(4e-5)), ('scene/field/.*', rate(1e-3)),
            *rest)
  config.optim.groups = base.of_steps(config, groups)
  return config
