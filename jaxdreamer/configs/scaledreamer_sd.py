r"""ASD with Stable Diffusion and Perp-Neg: ScaleDreamer's
configs/single-prompt_benchmark/asd_sd_nerf.yaml. What differs is what configs/sd.py says.

  python -m jaxdreamer.train --config=configs/scaledreamer_sd.py --config.prior.path=FOLDER \
      --config.prompt="a pineapple"
"""
from jaxdreamer.configs import base, sd


def get_config():
  config = sd.get_config()
  config.steps = 25000
  config.estimator.name = 'asd'
  config.estimator.asd.update({'guidance': (7.5,), 'eta': .1})
  config.perp_neg = .5
  config.sampling.t_min = base.of_steps(config, lambda steps: (.5, .02, steps))
  config.sampling.t_max = base.of_steps(config, lambda steps: (.98, .5, steps))
  config.cameras.distance = (1., 1.5)
  config.render.update({'background': 'hash_map', 'normals': 'forward',
                        'stages': ((0, 64), (10000, 256)), 'chunk': 4096})
  config.optim.update({'b1': 0., 'weight_decay': .01})
  config.regularizers.update({'sparsity': (30.,), 'opaque': (0., 100., 10000, 1)})
  return config
