r"""OSEDiff (Wu et al. 2024) with Stable Diffusion 2.1-base as the released train_osediff.py runs
it: 512 px, LoRAs of rank 4 on UNet and encoder, VSD at guidance 7.5 against a negative prompt of
qualities, 16 pictures a step, constant rates.

  python -m jaxdreamer.train --config=configs/osediff_sd.py --config.prior.path=FOLDER \
      --config.scene.restoration.path=PICTURES --config.prompt="a photograph, best quality"

This differs from the released code:
- prompt: one for all pictures; there a tagger's words for each.
- LPIPS: left out, as its network is not shipped; config.scene.restoration.feature weighs the toybox
  reader's features in its place, which know toys alone.
- degradations: kernels and noise are normal ones alone, and nothing grows on the way; a half to a
  quarter of the pixels of a side are left, there a quarter.
- the LoRA's step: at once with the generator's, and one bound for the norm of both.
- precision: float32, as LoRAs of convolutions are merged; there float16 beside them.
"""
from jaxdreamer.configs import base

NEGATIVE = ('painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, '
            '3D render, unreal engine, blurring, dirty, messy, worst quality, low quality, frames, '
            'watermark, signature, jpeg artifacts, deformed, lowres, over-smooth')


def get_config():
  config = base.get_config()
  config.prompt, config.negative_prompt = 'a photograph, best quality', NEGATIVE
  config.steps, config.checkpoint_every, config.preview_every = 100_000, 500, 500
  config.log_every = 50
  config.prior.name = 'stable_diffusion'
  config.prior.stable_diffusion.update({'dtype': 'float32', 'sample': True})
  config.scene.name = 'restoration'
  config.scene.restoration.feature = 0.
  config.estimator.name = 'vsd'
  config.estimator.vsd.update({'matrices': 'all', 'normalized': True})
  config.sampling.update({'views': 16, 'design': 'independent', 't_min': (20. / 999.,),
                          't_max': (979. / 999.,)})
  config.optim.update({'weight_decay': .01, 'clip': 1., 'b2': .999, 'eps': 1e-8})
  config.optim.groups = (('.*', 5e-5),)
  return config
