"""ASD with MVDream: ScaleDreamer's single-prompt asd_mv_nerf. Its renders are 64 px here throughout, 256 px there from step
10000 on; its scene takes up to 256 samples a ray by an occupancy grid, here as many by a coarse and a fine pass.

  python -m jaxdreamer.train --config=configs/scaledreamer_mvdream.py --config.prior.path=FILE \
    --config.prior.mvdream.tokenizer=FOLDER --config.prompt="a pineapple"
"""
from configs import sd

UNWANTED = ('ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, lowres, '
            'low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, bad proportions')


def get_config():
  config = sd.get_config()
  config.steps = 25000
  config.prior.name = 'mvdream'
  config.negative = UNWANTED
  config.estimator.name = 'asd'
  config.estimator.asd.update({'guidance': (7.5,), 'eta': .1})
  config.sampling.update({'views': 4, 'design': 'rings', 't_min': (.5, .02, config.steps), 't_max': (.98, .5, config.steps)})
  config.cameras.update({'elevation': (0., 30.), 'distance': (.8, 1.), 'fov': (15., 60.), 'relative': True})
  config.render.update({'samples': 128, 'fine': 128})
  config.optim.b1 = 0.
  config.optim.groups = (('scene/.*', .003), ('est/moments/.*', .05, 'sgd'), ('est/.*', .0001))
  config.regularizers.update({'sparsity': (20.,), 'orientation': (0., 100., 10000, 1), 'opaque': (0., 100., 10000, 1)})
  return config
