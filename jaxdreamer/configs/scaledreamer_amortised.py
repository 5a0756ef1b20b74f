"""ScaleDreamer's prompt-amortised generators at full size, by ASD, a config for each of its corpora:

  python -m jaxdreamer.train --config=configs/scaledreamer_amortised.py:df415 --config.prior.path=FOLDER --config.corpus.path=FILE
  python -m jaxdreamer.doctor --config=configs/scaledreamer_amortised.py:df415 --config.corpus.path=FILE       # what a step takes

mg15 is Hyper-iNGP, df415 and at2520 are 3DConv-Net, cp100k its larger size, all on Stable Diffusion 2.1-base with one view of a
prompt; dl17k is the triplane transformer on MVDream with four. A step holds a prompt for each device of 8 GPUs; `:df415,64` is
for 64 devices, a v5e-64 or eight such hosts. dl17k adds up two steps, as published.
"""
from jaxdreamer.configs import base, scaledreamer_mvdream, sd

CONV3D = {'text': 1024, 'channels': (512, 512, 512, 256, 128, 64), 'features': 32, 'width': 256, 'radius': .8}
LARGER = CONV3D | {'channels': (512, 512, 512, 512, 256, 128)}
INGP = {'text': 1024, 'levels': 16, 'log2_table': 19, 'base': 16, 'finest': 4096, 'radius': .5}
TRIPLANE = {'text': 1024, 'tokens': 32, 'width': 768, 'blocks': 12, 'heads': 16, 'features': 32, 'upsample': 2, 'hidden': 64,
            'radius': .8}

# corpus: scene, its sizes, steps, learning rate, optimiser
RECIPES = {
  'mg15': ('hyper_ingp', INGP, 50_000, .004, 'adam'),
  'df415': ('conv3d', CONV3D, 100_000, .004, 'adam'),
  'at2520': ('conv3d', CONV3D, 50_000, .004, 'adam'),
  'cp100k': ('conv3d', LARGER, 300_000, .004, 'adan'),
  'dl17k': ('triplane_transformer', TRIPLANE, 100_000, 2e-4, 'adan'),
}


def get_config(what='df415,8'):
  corpus, _, devices = what.partition(',')
  scene, sizes, steps, rate, optimizer = RECIPES[corpus]
  several = corpus == 'dl17k'
  config = scaledreamer_mvdream.get_config() if several else sd.get_config()
  config.prompt = ''
  config.corpus.update({'path': 'FILE', 'prompts': int(devices or 8)})
  config.sampling.views = config.corpus.prompts * (4 if several else 1)
  config.steps, config.steps_per_call = steps, 1
  config.scene.name = scene
  with config.scene[scene].unlocked():
    config.scene[scene].update(sizes)
  config.estimator.name = 'asd'
  config.estimator.asd.update({'guidance': (7.5,), 'eta': .1, 'negatives': 0. if several else .5})
  config.sampling.t_min = base.of_steps(config, lambda steps: (.5, .02, steps))
  config.sampling.t_max = base.of_steps(config, lambda steps: (.98, .5, steps))
  config.render.update({'samples': 128, 'fine': 64, 'background': 'random'})
  config.regularizers.update({'sparsity': (20.,), 'orientation': (0.,), 'eikonal': (.01,)})
  if not several:
    config.regularizers.eikonal = base.of_steps(config, lambda steps: (100., 1., max(steps // 10, 1)))
  opaque = 1. if several else 10.
  config.regularizers.opaque = base.of_steps(config, lambda steps: (0., opaque, steps * 4 // 5, max(steps // 5, 1)))
  config.optim.groups = (('scene/field/.*', rate, optimizer), ('scene/.*', .001), ('est/moments/.*', .05, 'sgd'), ('est/.*', .0001))
  config.optim.update({'b1': 0., 'accumulate': 2 if several else 1})
  return config
