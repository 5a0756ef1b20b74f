r"""Magic3D (Lin et al. 2023) with Stable Diffusion as threestudio runs it, in two stages, both by
SDS: a field, its configs/magic3d-coarse-sd.yaml, and its surface and colors refined as a mesh at
the model's own size, magic3d-refine-sd.yaml. Their scale 100 is 101 here.

  python -m jaxdreamer.train --config=configs/magic3d_sd.py --config.prior.path=FOLDER \
      --config.prompt="a delicious hamburger"

Beside what configs/sd.py says, this differs:
- lamp: around the camera, as DreamFusion's; there in a cone, and of a random share of the light.
- surface: the field's density 10; there a mean of its density.
- view words: of the jittered camera, as it stands; there of the camera before the jitter.
- outputs: films and meshes show the ball of radius 1.4, what threestudio's evaluation cameras see,
  not the scene's 2.

`--config.stages=field` runs the first alone.
"""
from jaxdreamer.configs import dreamfusion_sd, sd


def get_config():
  config = dreamfusion_sd.get_config()
  config.scene.hashgrid.band = (64.,)                     # all levels from the start
  config.sampling.weight = 'uniform'
  config.stages = ('field', 'refined')
  config.stage.refined = sd.triangles(128, extent=2., shaded=(.75,)) | {
    'steps': 5000, 'sampling': {'weight': 'sigma2', 't_max': (.5,)}, 'cameras': {'fov': (30., 45.)},
    'regularizers': sd.NO_FOG | {'normal_consistency': (1e4,)},
    'optim': {'groups': (('.*', .01),)}}
  return config
