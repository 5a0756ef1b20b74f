"""Every option, with its default. The other files here are short changes of this one;
`--config.a.b=v` changes one more, and `--help` lists them all.

The sections of scenes, priors, estimators and backgrounds hold the keyword-only arguments of the
functions that registry.py names, with their defaults; so do a few others, see FUNCTIONS. What such
an option is stands in the docstring of its function.

A schedule is (v,), (v0, v1, steps), or (v0, v1, start, steps): linear from v0 to v1 over `steps`
from step `start` on. On the command line: `--config.estimator.sds.guidance=5`, or `=20,3,100`. A
config whose schedules last as long as its run writes them with `of_steps`: they follow
`--config.steps`.

A config of your own begins as the other files here do. It may name a function of yours,
`config.estimator.name = 'module:mine'`, and hold options of it, `config.estimator.mine = {...}`;
the command line reaches all of them.
"""
from types import SimpleNamespace
from typing import Callable

from ml_collections import ConfigDict, FieldReference

from jaxdreamer import cameras, optim, render, sampling
from jaxdreamer.registry import BACKGROUNDS, ESTIMATORS, FACTS, PRIORS, REGULARIZERS, SCENES
from jaxdreamer.schedules import NEVER
from jaxdreamer.sections import defaults, of_table

# {section: the function whose options it holds}
FUNCTIONS = {f'{section}.{name}': function
             for section, table in (('scene', SCENES), ('prior', PRIORS), ('estimator', ESTIMATORS),
                                    ('render.backgrounds', BACKGROUNDS))
             for name, function in table.items()} | {
  'sampling': sampling.make_draw, 'cameras': cameras.from_uniform,
  'render.light': render.sample_light, 'optim': optim.chain}

OPTIONS = {
  'prompt': 'a red cube',
  # what guidance leads away from, in place of the empty prompt; csd: by its omega2
  'negative_prompt': '',
  'perp_neg': 0.,  # Perp-Neg: guidance away from the view's other sides; .5 is ScaleDreamer's
  'seed': 0,
  # workdir of a run whose scene this one starts from: the parameters of these names that fit, and
  # all that its kind of scene can make of the rest
  'start': '', 'inherit': ('.*',),
  # names of a run's stages, in order, each starting from the one before; stage.NAME holds what it
  # changes of this config
  'stages': (), 'stage': {},
  'steps': 200,
  # steps in one compiled call; 0: 1 on a CPU, elsewhere up to 10 that divide what happens when
  'steps_per_call': 0,
  # a GPU adds in a fixed order: a step has the same bits whenever it is made, and takes longer
  'deterministic': False,
  'log_every': 10, 'preview_every': 50, 'checkpoint_every': 100, 'keep': 2,
  'max_minutes': 0.,  # stop, save and write the outputs after so long; 0: never
  'profile_steps': '',                         # 'a:b' writes a profile of steps a to b
  'tensorboard': False,
  # so many steps in a row that are not finite lead back to the newest good checkpoint, with fresh
  # noise; and so often to the same one, before the run stops
  'guard': {'skips': 10, 'rollbacks': 3},
  # many prompts, for a generator: a file of them, or 'toybox'; how many a step
  'corpus': {'path': '', 'prompts': 8,
             'store': ''},  # folder of their embeddings; '' is one in the cache
  # particles: several scenes in one state, for VSD; each step trains the next one. A generator's
  # noise is no option: it is as much as the step draws
  'scene': {'name': 'voxels', 'particles': 1, **of_table(SCENES, without=('noise',))},
  'prior': {'name': 'toybox',
            # of a folder or file of weights; '' is the shipped file, 'toybox-sd' the shipped folder
            'path': '',
            # a LoRA file beside a published model, of kohya's or diffusers' layout
            'lora': '', 'lora_scale': 1.,
            # or: fetch an alias of weights/hub.py, or OWNER/NAME[@REVISION], of the hub
            'hub': '',
            **of_table(PRIORS, without=FACTS)},
  'estimator': {'name': 'sds', **of_table(ESTIMATORS)},
  'sampling': {'views': 4, 'draws': 1,         # draws of (t, eps) for each render
               # how (camera, t) spread over the views: 'independent', 'lattice', 'rings'
               'design': 'stratified',
               **defaults(sampling.make_draw)},
  'cameras': {'azimuth': (-180., 180.), 'elevation': (-10., 85.), 'distance': (2.8, 3.3),
              'fov': (40., 40.),
              **defaults(cameras.from_uniform),
              'jitter': (0., 0., 0.),  # of the position, of the point looked at, of the up vector
              'front_back': 0,                 # so many first steps see fronts and backs alone
              'words': True,                   # False: no view is told to the prior by words
              # azimuths on either side that are called front and back view
              'front': 45., 'back': 45.},
  'render': {'kind': 'color',  # what the prior sees: or 'normal', (1 + n) / 2 in the world's frame
             'samples': 16, 'fine': 16, 'radius': 1., 'chunk': 0, 'remat': False,
             # share of all rays that `fine` samples are asked of, those that meet most first
             'room': 1.,
             'disparity': False,  # samples lie closer near the eye, as disparity does
             # ((0, 64), (5000, 512)): pixels from a step on; (): the prior's
             'stages': (),
             # 'learned', 'environment', 'hash_map' and, of generators, 'hypernet' learn
             'background': 'random',
             # share of the views over one random color in place of these four
             'random_background': .5,
             # a generator's map reads texts as wide as its scene does
             'backgrounds': of_table(BACKGROUNDS, without=('text',)),
             # shares of views lit by a lamp, and of those without color
             'shaded': NEVER, 'textureless': (.5,),
             'light': defaults(render.sample_light, without=('shaded', 'textureless')),
             'normals': 'exact'},  # or by differences of densities: 'forward', 'central'
  # eikonal: of scenes that are a distance
  'regularizers': dict.fromkeys(REGULARIZERS, NEVER),
  'optim': {'groups': (('scene/field/.*', .05), ('scene/.*', .005),
                       ('est/moments/.*', .5, 'sgd'), ('est/.*', .001)),
            **defaults(optim.chain, without=('particles',))},
  # map: or 'pmap'; data 0: all devices that the views divide by; model: so many of them share the
  # arrays of the prior and of a generator
  'mesh': {'map': 'shard_map', 'data': 0, 'model': 1,
           # one process a host, as a scheduler (launch/) or JAX's variables tell; or by hand:
           'distributed': False,
           # HOST:PORT of the first, how many there are, which this is
           'coordinator': '', 'processes': 0, 'process': -1,
           'wait': 300.},  # seconds until a process that does not come is named
  'eval': {'size': 64, 'samples': 64, 'fine': 0, 'chunk': 0, 'mesh_resolution': 96,
           # of the mesh in GLB and OBJ: faces it is simplified to, or 0, and pixels of a side of
           # its texture, or 0 for colors on its vertices
           'faces': 15_000, 'texture': 1024,
           'radius': 0.,  # of the ball that meshes and films show; 0: render.radius
           # of a scene one stands in: how far from the origin films stand in it; 0: an object's
           'inside': 0.},
}


def of_steps(config, make: Callable[[int], tuple]) -> FieldReference:
  """The option make(config.steps), whatever config.steps is when it is read: a tuple, such as a
  schedule."""
  follow = SimpleNamespace(fn=lambda _, steps: make(steps), args=(config.get_ref('steps'),))
  return FieldReference((), op=follow)           # read as fn(value, *args)


def get_config():
  """The options, locked; sections whose function may be one's own take more."""
  config = ConfigDict(OPTIONS, convert_dict=True)
  config.lock()
  config.stage.unlock()
  for section in (config.scene, config.prior, config.estimator):
    section.unlock()
    for options in section.values():
      if isinstance(options, ConfigDict):
        options.lock()
  return config
