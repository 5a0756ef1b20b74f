r"""VSD with Stable Diffusion, stage 1 of ProlificDreamer as threestudio runs it: its
configs/prolificdreamer.yaml.

  python -m jaxdreamer.train --config=configs/prolificdreamer_sd.py --config.prior.path=FOLDER \
      --config.prompt="a pineapple"

Beside what configs/sd.py says, this differs:
- the LoRA's base: the prior itself, which halves memory; there the 768 px model, which predicts v.
"""
from jaxdreamer.configs import sd


def get_config():
  config = sd.get_config()
  config.steps = 25000
  config.estimator.name = 'vsd'
  # the LoRA's rate, warmed up
  config.optim.groups = (*config.optim.groups[:-1], ('est/.*', (0., .0001, 500)))
  config.sampling.t_max = (.98, .5, 5000, 1)
  config.cameras.distance = (1., 1.5)
  config.render.update({'stages': ((0, 64), (5000, 512)), 'chunk': 4096})
  config.regularizers.update({'sparsity': (10.,), 'opaque': (0., 1000., 10000, 1)})
  config.optim.weight_decay = .01
  return config
