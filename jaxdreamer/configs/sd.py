"""What the configs for Stable Diffusion share: threestudio's NeRF on the hash grid, with two
networks without biases; 64 px renders enlarged to the model's own size; elevations uniform in angle
in half of the views; latents drawn from the posterior; view words within 30 degrees.
`--config.prior.path=` names the model's folder or single file.

`python -m jaxdreamer.doctor --config=configs/dreamfusion_sd.py --config.prior.path=FOLDER` prints
what a step would take.

In all of them this differs from the released code:
- samples: 64 of a ray propose 64 that are trained; there up to 512, of which an occupancy grid
  drops those in empty space. Measured, these take as long and see surfaces better (d9a7ebb).
- space: the ball of render.radius, which needs no grid; there the cube around it.
- precision: the prior in bfloat16, whose range is float32's; there in float16, and dreamfusion-sd's
  scene too.
"""
from jaxdreamer.configs import base

# what a mesh has no use for
NO_FOG = {'orientation': (0.,), 'sparsity': (0.,), 'opaque': (0.,)}


def get_config():
  config = base.get_config()
  config.prompt = 'a delicious hamburger'
  config.steps = 10000
  config.log_every, config.preview_every, config.checkpoint_every = 50, 500, 1000
  config.prior.name = 'stable_diffusion'
  for prior in ('stable_diffusion', 'sdxl', 'mvdream'):
    config.prior[prior].sample = True
  config.scene.name = 'hashgrid'
  config.scene.hashgrid.update({'levels': 16, 'finest': 4096, 'base': 16, 'log2_table': 19,
                                'strength': 10., 'radius': .5, 'separate': True})
  config.render.update({'samples': 64, 'fine': 64, 'background': 'environment', 'remat': True})
  config.cameras.update({'elevation': (-10., 45.), 'distance': (1.5, 2.), 'fov': (40., 70.),
                         'angular': .5,
                         'front': 30., 'back': 30.})
  config.sampling.update({'views': 1})
  config.optim.groups = (('scene/.*/tables/.*', .01), ('scene/.*', .001),
                         ('est/moments/.*', .5, 'sgd'), ('est/mu', .001),
                         ('est/.*', .0001))
  config.eval.update({'size': 256, 'samples': 256, 'chunk': 16384, 'mesh_resolution': 256})
  return config


def triangles(resolution, *, tau=10., extent=1., **render):
  """The options of a stage whose scene is a mesh of triangles on a grid of `resolution` cells, from
  the surface of the stage before where its density is `tau`; at 512 pixels."""
  return {'scene': {'name': 'dmtet',
                    'dmtet': {'levels': (resolution + 1,), 'blurred': False, 'tau': tau,
                              'extent': extent, 'texture': 'hashgrid'}},
          'render': {'stages': ((0, 512),)} | render}
