"""Text to 3D by score distillation, as pure functions in JAX.

    import jaxdreamer as jd

    prior, scene = jd.toybox_prior(), jd.sdf_voxels()
    text = prior.embed('a red cube')

`jd.NAME` is imported from its module when it is first asked for: importing the package alone
imports no JAX. examples/first_object.py puts these parts together.
"""
import importlib

# name: where it lives
PUBLIC = {
  # estimators: options -> Estimator
  'sds': 'estimators.sds', 'csd': 'estimators.csd', 'vsd': 'estimators.vsd',
  'ssd': 'estimators.ssd', 'asd': 'estimators.asd',
  # scenes: options -> Scene
  'sdf_voxels': 'scenes.sdf_voxels', 'sdf_hashgrid': 'scenes.sdf_hashgrid',
  'voxels': 'scenes.voxels', 'hashgrid': 'scenes.hashgrid', 'mlp': 'scenes.mlp',
  'dmtet': 'scenes.dmtet',
  # priors: options -> Prior
  'toybox_prior': 'priors.toybox:toybox', 'empirical': 'priors.empirical',
  'gaussian': 'priors.gaussian', 'stable_diffusion': 'priors.stable_diffusion',
  # the records that these return, and those that a step hands them
  'Estimator': 'types', 'Scene': 'types', 'Prior': 'types',
  'NoiseSchedule': 'types', 'Draws': 'types', 'Views': 'types', 'Text': 'types',
  'Camera': 'types', 'Rendering': 'types', 'TrainState': 'types',
  # what an estimator is written with
  'diffuse': 'diffusion', 'predictions': 'diffusion', 'guided': 'diffusion', 'bcast': 'diffusion',
  'at': 'schedules',
  # what a step is made of
  'from_uniform': 'cameras', 'orbital': 'cameras', 'stratified': 'sampling',
  'make_draw': 'sampling', 'make_sample': 'sampling', 'render_image': 'render:image',
  'condition': 'conditioning', 'make_render_latents': 'train_step', 'make_gradient': 'train_step',
  # the step, and the state that it changes
  'make_local_step': 'train_step', 'first_state': 'training',
  'single_device': 'parallel',
  # what comes out
  'Object': 'objects', 'Model': 'objects', 'model': 'objects',
  'write_mesh': 'outputs.mesh:write', 'turntable': 'outputs.video',
}
__all__ = sorted(PUBLIC)


def __getattr__(name: str):
  if name not in PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module, _, attribute = PUBLIC[name].partition(':')
  return getattr(importlib.import_module(f'{__name__}.{module}'), attribute or name)


def __dir__():
  return __all__
