"""ASD with MVDream: ScaleDreamer's configs/single-prompt_benchmark/asd_mv_nerf.yaml.

  python -m jaxdreamer.train --config=configs/scaledreamer_mvdream.py --config.prior.path=FILE \
    --config.prior.mvdream.tokenizer=FOLDER --config.prompt="a pineapple"

Beside what configs/sd.py says, this differs:
- samples: 128 of a ray propose 128 that are trained; there up to 256.
"""
from jaxdreamer.configs import base, sd

UNWANTED = ('ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, '
            'and unclear, cropped, lowres, '
            'low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, '
            'dehydrated, bad proportions')


def get_config():
  config = sd.get_config()
  config.steps = 25000
  config.prior.name = 'mvdream'
  config.negative_prompt = UNWANTED
  config.estimator.name = 'asd'
  config.estimator.asd.update({'guidance': (7.5,), 'eta': .1})
  config.sampling.update({'views': 4, 'design': 'rings'})
  config.sampling.t_min = base.of_steps(config, lambda steps: (.5, .02, steps))
  config.sampling.t_max = base.of_steps(config, lambda steps: (.98, .5, steps))
  config.cameras.update({'elevation': (0., 30.), 'distance': (.8, 1.), 'fov': (15., 60.),
                         'relative': True})
  config.render.update({'samples': 128, 'fine': 128, 'background': 'hash_map', 'normals': 'forward',
                        'stages': ((0, 64), (10000, 256)), 'chunk': 4096})
  config.optim.update({'b1': 0., 'weight_decay': .01})
  config.optim.groups = (('scene/.*', .003), ('est/moments/.*', .5, 'sgd'), ('est/.*', .0001))
  config.regularizers.update({'sparsity': (20.,), 'orientation': (0., 100., 10000, 1),
                              'opaque': (0., 100., 10000, 1)})
  return config
