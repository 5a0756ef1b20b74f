r"""The default: a caption of the toybox world becomes a 3D object, by SDS on the shipped prior.

  python -m jaxdreamer.train --config=configs/toybox.py \
      --config.prompt="a green cone on a yellow cylinder"

`configs/toybox.py:empirical` distils the exact posterior mean over renders of the caption instead:
the perfect prior.
Device, time and scores to expect: README.md, which the benchmarks write.
"""
from jaxdreamer.configs import base


def get_config(prior='toybox'):
  config = base.get_config()
  config.prior.name = prior
  if prior == 'empirical':
    config.render.background = 'black_or_white'  # those its images have
    config.estimator.sds.guidance = (1.,)
  return config
