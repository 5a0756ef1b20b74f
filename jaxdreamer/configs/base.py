"""Every option, with its default. The other files here are short changes of this one;
`--config.a.b=v` changes one more.

A schedule is (v,), (v0, v1, steps), or (v0, v1, start, steps): linear from v0 to v1 over `steps`
from step `start` on. On the command line: `--config.estimator.sds.guidance=5`, or `=20,3,100`. A
config whose schedules last as long as its run writes them with `of_steps`: they follow
`--config.steps`. A config of your own begins as the other files here do, and may hold the options
of a function of yours as `config.estimator.mine = {...}`.
"""
from typing import Callable, NamedTuple

from ml_collections import ConfigDict, FieldReference

# {section: the function whose options it holds}
FUNCTIONS = {}


class Following(NamedTuple):
  """What a FieldReference does to its value, as ml_collections calls it: fn(value, *args)."""
  fn: Callable
  args: tuple


def of_steps(config, make: Callable[[int], tuple]) -> FieldReference:
  """The option make(config.steps), whatever config.steps is when it is read: a tuple, such as a
  schedule."""
  return FieldReference((), op=Following(lambda _, steps: make(steps), (config.get_ref('steps'),)))


def get_config():
  config = ConfigDict({
    'prompt': 'a red cube',
    # what guidance leads away from, in place of the empty prompt; csd: by its share
    'negative_prompt': '',
    'seed': 0,
    'steps': 200,
    'steps_per_call': 1,  # steps in one compiled call: 10 on a GPU or TPU, 1 on a CPU
    'log_every': 10, 'preview_every': 50, 'checkpoint_every': 100, 'keep': 2,
    'max_minutes': 0.,  # stop, save and write the outputs after so long; 0: never
    'profile_steps': '',                         # 'a:b' writes a profile of steps a to b
    'tensorboard': False,
    # many prompts, for a generator: a file of them, or 'toybox'; how many a step
    'corpus': {'path': '', 'prompts': 8,
               'store': ''},  # folder of their embeddings; '' is one in the cache
    'scene': {
      # several scenes in one state, for VSD; each step trains the next one
      'name': 'voxels', 'particles': 1,
      'voxels': {'levels': (10, 19, 37)},
      # band (1, 8, 100) adds levels over the first steps
      'hashgrid': {'levels': 8, 'finest': 128, 'band': (64.,),
                   'extent': 1.,  # half a side of the cube that the levels fill
                   # density and color by two networks without biases, else by one
                   'separate': False},
      'mlp': {'octaves': 6, 'width': 64, 'blur': (0.,)},  # blur (5e-2, 2e-3, 100) starts smooth
      'image': {'size': 64},
      # Generators for many prompts; `text` is the width of the prior's embeddings.
      'hyper_ingp': {'text': 128, 'levels': 8, 'log2_table': 14, 'base': 8, 'finest': 128,
                     'radius': .5, 'extent': 1.},
      'conv3d': {'text': 128, 'channels': (64, 64, 32, 16), 'features': 16, 'width': 64,
                 'radius': .5, 'extent': 1.},
      'triplane_transformer': {'text': 128, 'tokens': 8, 'width': 128, 'blocks': 4, 'heads': 4,
                               'features': 16, 'upsample': 4,
                               'hidden': 32, 'radius': .5, 'extent': 1.},
    },
    'prior': {
      'name': 'toybox', 'path': '',  # of a folder or file of weights; '' is the shipped file
      # a LoRA file beside a published model, of kohya's or diffusers' layout
      'lora': '', 'lora_scale': 1.,
      'hub': '',  # or: fetch an alias of jaxdreamer/nn/hub.py, or OWNER/NAME[@REVISION], of the hub
      'toybox': {'camera': True},                # camera False: view words alone
      'empirical': {'images': 512, 'bandwidth': .15},
      # as below
      'mvdream': {'image_size': 64, 'dtype': 'bfloat16', 'tokenizer': '', 'sha256': '',
                  'sample': False},
      'sdxl': {'image_size': 64, 'dtype': 'bfloat16', 'prediction': '', 'tokenizer': '',
               'tokenizer_2': '', 'sha256': '',
               'sample': False},
      # pixels of the render, enlarged to the model's own
      'stable_diffusion': {'image_size': 64, 'dtype': 'bfloat16',
                           # '' is what the model says, else 'epsilon', 'v_prediction' or 'sample'
                           'prediction': '',
                           # for single files, which do not hold them
                           'tokenizer': '', 'sha256': '',
                           # True: latents drawn from the autoencoder's posterior, else its mean
                           'sample': False},
    },
    'estimator': {
      'name': 'sds',
      # guidance: scale 1 is conditional; threestudio's number is one less. negatives: of Perp-Neg,
      # .5 is ScaleDreamer's.
      'sds': {'guidance': (3.,), 'negatives': 0., 'weight': 'sigma2'},
      # negative: its share, omega_2
      'csd': {'negative': (0.,), 'negatives': 0., 'weight': 'sigma2',
              # True: the residual over its norm, which sets what regularizers weigh
              'normalize': False},
      # steps from probe to probe, for mu
      'ssd': {'guidance': (3.,), 'phi': ('constant',), 'mu': 'parameters', 'every': 10,
              # bins, per: of mu='learned'
              'bins': 10, 'per': (), 'form': 'stein', 'negatives': 0., 'weight': 'sigma2',
              # published estimators, '' the toybox's; pixels they see
              'depth': '', 'normals': '', 'size': 224},
      # dropped: the LoRA's cameras
      'vsd': {'guidance': (7.5,), 'rank': 4, 'dropped': .1, 'negatives': 0., 'weight': 'sigma2'},
      'asd': {'guidance': (3.,), 'eta': .1, 'negatives': 0., 'weight': 'sigma2'},
    },
    'sampling': {'views': 4, 'draws': 1,         # draws of (t, eps) for each render
                 # how (camera, t) spread over the views: 'independent', 'lattice', 'rings'
                 'design': 'stratified',
                 'antithetic': False,            # every second draw is the one before with -eps
                 # a histogram of t between t_min and t_max; the mean stays a uniform one's
                 'density': (1.,),
                 't_min': (.02,), 't_max': (.98,)},
    'cameras': {'azimuth': (-180., 180.), 'elevation': (-10., 85.), 'distance': (2.8, 3.3),
                'fov': (40., 40.),
                'relative': False,               # True: the distance counts in 1 / tan(fov / 2)
                # share of the views whose elevation is uniform in angle, not in area
                'angular': 0.,
                'jitter': (0., 0., 0.),  # of the position, of the point looked at, of the up vector
                'front_back': 0,                 # so many first steps see fronts and backs alone
                # azimuths on either side that are called front and back view
                'front': 45., 'back': 45.},
    'render': {'samples': 16, 'fine': 16, 'radius': 1., 'background': 'random', 'chunk': 0,
               'remat': False,
               # ((0, 64), (5000, 512)): pixels from a step on; (): the prior's
               'stages': (),
               # backgrounds that learn: 'learned', 'environment', 'hash_map', 'hypernet' (of
               # generators)
               # share of the views over one random color in place of these
               'random_background': .5,
               # shares of views lit by a lamp, and of those without color
               'shaded': (0.,), 'textureless': (.5,),
               # relative: to the camera's distance
               'light': {'distance': (.8, 1.5), 'relative': True, 'jitter': 1.,
                         'normals': False},  # True: textureless views show the normals as colors
               'normals': 'exact'},  # or by differences of densities: 'forward', 'central'
    'regularizers': {'orientation': (0.,), 'opacity': (0.,), 'sparsity': (0.,), 'opaque': (0.,),
                     'distortion': (0.,),
                     # eikonal: of scenes that are a distance
                     'z_variance': (0.,), 'eikonal': (0.,)},
    'optim': {'groups': (('scene/field/.*', .05), ('scene/.*', .005),
                         ('est/moments/.*', .05, 'sgd'), ('est/.*', .001)),
              'b1': .9, 'b2': .99, 'eps': 1e-15, 'weight_decay': 0., 'clip': 0.,
              'accumulate': 1},                  # steps whose mean gradient makes one update
    # map: or 'pmap'; data 0: all devices that the views divide by
    'mesh': {'map': 'shard_map', 'data': 0,
             # one process a host, as a scheduler (launch/) or JAX's variables tell; or by hand:
             'distributed': False,
             # HOST:PORT of the first, how many there are, which this is
             'coordinator': '', 'processes': 0, 'process': -1,
             'wait': 300.},  # seconds until a process that does not come is named
    'eval': {'size': 64, 'samples': 64, 'fine': 0, 'chunk': 0, 'mesh_resolution': 96,
             'radius': 0.},  # of the ball that meshes and films show; 0: render.radius
  }, convert_dict=True)
  config.lock()
  # these alone take more: options of one's own functions
  for section in (config.scene, config.prior, config.estimator):
    section.unlock()
    for options in section.values():
      if isinstance(options, ConfigDict):
        options.lock()
  return config
