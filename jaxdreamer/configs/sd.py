"""What the configs for Stable Diffusion share: threestudio's NeRF on the hash grid, 64 px renders enlarged to the model's own
size, cameras of a scene in the unit ball, AdamW. `--config.prior.path=` names the model's folder or single file.

`python -m jaxdreamer.doctor --config=configs/dreamfusion_sd.py --config.prior.path=FOLDER` prints what a step would take.
"""
from jaxdreamer.configs import base


def get_config():
  config = base.get_config()
  config.prompt = 'a delicious hamburger'
  config.steps, config.steps_per_call = 10000, 10
  config.log_every, config.preview_every, config.checkpoint_every = 50, 500, 1000
  config.prior.name = 'stable_diffusion'
  config.scene.name = 'hashgrid'
  with config.scene.hashgrid.unlocked():
    config.scene.hashgrid.update({'levels': 16, 'finest': 4096, 'base': 16, 'log2_table': 19, 'strength': 10., 'radius': .5})
  config.render.update({'samples': 64, 'fine': 64, 'background': 'environment', 'remat': True})
  config.cameras.update({'elevation': (-10., 45.), 'distance': (1.5, 2.), 'fov': (40., 70.)})
  config.sampling.update({'views': 1})
  config.optim.groups = (('scene/field/tables/.*', .01), ('scene/.*', .001), ('est/moments/.*', .05, 'sgd'), ('est/mu', .001),
                         ('est/.*', .0001))
  config.eval.update({'size': 256, 'samples': 256, 'chunk': 16384, 'mesh_resolution': 256})
  return config
