r"""ProlificDreamer with Stable Diffusion as threestudio runs it, in three stages: a field by VSD,
its configs/prolificdreamer.yaml; the field's surface by SDS of its normals,
prolificdreamer-geometry.yaml; and colors for that surface by VSD, prolificdreamer-texture.yaml.

  python -m jaxdreamer.train --config=configs/prolificdreamer_sd.py --config.prior.path=FOLDER \
      --config.prompt="a pineapple"

Beside what configs/sd.py says, this differs:
- the LoRA's base: the prior itself, which halves memory; there the 768 px model, which predicts v.
- outliers: small parts of the surface are left as they are; there the last stage drops them.

`--config.stages=field` runs the first alone.
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
  vsd = config.optim.groups[-1]
  config.stages = ('field', 'geometry', 'texture')
  black = {'background': 'white', 'backgrounds': {'white': {'rgb': (0., 0., 0.)}}}
  config.stage.geometry = sd.triangles(128, tau=25., kind='normal', **black) | {
    'steps': 15000, 'estimator': {'name': 'sds', 'sds': {'guidance': (101.,)}},
    'regularizers': sd.NO_FOG | {'normal_consistency': (1e4,), 'laplacian': (1e4,)},
    'optim': {'weight_decay': 0.,
              'groups': (('scene/field/(sdf|deformation)/?.*', .005), ('.*', 0.))}}
  config.stage.texture = sd.triangles(128) | {
    'steps': 30000, 'inherit': ('scene/field/(sdf/.*|deformation|box)',),
    'regularizers': sd.NO_FOG,
    'optim': {'groups': (('scene/field/texture/tables/.*', .01),
                         ('scene/(field/texture|background)/.*', .001), ('scene/.*', 0.), vsd)}}
  return config
