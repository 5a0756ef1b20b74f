r"""One-step restoration at the toybox's size (scenes/restoration.py): renders that were blurred,
made smaller, noisy and compressed, restored by the small Stable Diffusion with LoRAs, trained by
mean squared error, by what the toybox's reader sees, and by VSD.

  python -m jaxdreamer.train --config=configs/toybox_restore.py --workdir=runs/restorer
  python -m jaxdreamer.restore --workdir=runs/restorer --image=low.png

`--config.scene.restoration.vsd=0` trains it without VSD.
"""
from jaxdreamer.configs import base


def get_config():
  config = base.get_config()
  config.prompt = ''                             # of whatever toy
  config.steps, config.preview_every, config.checkpoint_every = 2000, 250, 250
  config.prior.name, config.prior.path = 'stable_diffusion', 'toybox-sd'
  config.prior.stable_diffusion.dtype = 'float32'          # LoRAs of convolutions are merged
  config.scene.name = 'restoration'
  config.scene.restoration.rank = 16
  config.estimator.name = 'vsd'
  config.estimator.vsd.update({'matrices': 'all', 'normalized': True, 'rank': 16})
  config.sampling.update({'views': 8, 't_min': (20. / 999.,), 't_max': (979. / 999.,)})
  config.optim.update({'weight_decay': .01, 'clip': 1., 'b2': .999, 'eps': 1e-8})
  config.optim.groups = base.of_steps(config, lambda steps: (
    ('scene/.*', (2e-4, 2e-5, steps // 2, max(steps // 2, 1))), ('est/.*', 2e-4)))
  return config
