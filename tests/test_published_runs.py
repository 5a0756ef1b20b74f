"""The configs of published models that have stages, or a scene one stands in, train on a model made
here of their files' layout."""
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import build, finishing, processes, runs, stages

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures('own_cache')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['prolificdreamer_sd', 'csd_sd', 'magic3d_sd'])
def test_every_stage_trains_on_a_published_checkpoint(model, name, tmp_path, monkeypatch):
  """Five steps of each at sizes a CPU can take, from the surface that so few steps leave."""
  monkeypatch.setattr(finishing, 'finish', lambda config, model, params, workdir, **_: {})
  monkeypatch.setattr(stages, 'foretold', lambda config, mesh: '')     # it compiles each once more
  config = importlib.import_module(f'configs.{name}').get_config()
  small = {'steps': 5, 'steps_per_call': 1, 'log_every': 5, 'preview_every': 0,
           'checkpoint_every': 5, 'mesh.data': 1, 'scene.hashgrid.levels': 3,
           'scene.hashgrid.log2_table': 10, 'scene.hashgrid.finest': 64, 'render.samples': 8,
           'render.fine': 8}
  config.update_from_flattened_dict({'prompt': 'a red mug', 'prior.path': str(model[0]),
                                     'render.stages': ((0, 16),), **small})
  for stage in config.stage.values():
    stage.update_from_flattened_dict({'steps': 5, 'render.stages': ((0, 16),)})
    stage.scene.dmtet.update({'levels': (9,), 'tau': 2.})
  assert stages.run(config, tmp_path, build.make_mesh(config)).step == 5
  found = {}
  for stage in stages.of(config):
    rows = [json.loads(line)
            for line in (tmp_path / stage / 'metrics.jsonl').read_text().splitlines()]
    assert rows[-1]['step'] == 5 and np.isfinite(rows[-1]['gradient_norm'])
    assert rows[-1]['gradient_norm'] > 0. and rows[-1].get('dropped', 0.) == 0.
    found[stage] = runs.restore(tmp_path / stage).params['field']
  first, *later = found.values()
  tables = lambda params: params['texture']['tables'][0]
  same = lambda a, b: bool(jnp.all(a == b))
  if name == 'prolificdreamer_sd':               # colors begin anew, on geometry that stays
    geometry, texture = later
    assert not same(geometry['sdf']['grid_9'], jnp.zeros_like(geometry['sdf']['grid_9']))
    assert same(tables(geometry), first['tables'][0])
    for part in ('deformation', 'box'):
      assert same(geometry[part], texture[part]), part
    assert same(geometry['sdf']['grid_9'], texture['sdf']['grid_9'])
    assert not same(tables(texture), tables(geometry))
  else:                                          # colors go on from the field's
    moved = jnp.abs(tables(later[0]) - first['tables'][0])
    assert 0. < moved.max() < 5.5 * .01


@pytest.mark.slow
@pytest.mark.parametrize('name', ['prolificdreamer_scene_sd', 'steindreamer_scene_sd'])
def test_a_scene_one_stands_in_trains_on_a_published_checkpoint(model, name):
  """Five steps at sizes a CPU can take; the config is otherwise as it is published."""
  config = importlib.import_module(f'configs.{name}').get_config()
  config.update_from_flattened_dict({
    'prompt': 'a red mug', 'prior.path': str(model[0]), 'steps': 5, 'steps_per_call': 1,
    'mesh.data': 1, 'scene.hashgrid.levels': 3, 'scene.hashgrid.log2_table': 10,
    'scene.hashgrid.finest': 64, 'render.stages': ((0, 16),), 'render.samples': 8,
    'render.fine': 8})
  mesh = build.make_mesh(config)
  training = build.training(config, mesh)
  # placed as the step leaves it, it is traced once
  begin = processes.place(training.init(KEY), mesh)
  *_, (step, state, info) = training.fit(begin, steps=5)
  assert step == 5 and float(info['finite']) == 1.
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params['scene'],
                       training.init(KEY).params['scene'])
  assert max(jax.tree.leaves(moved)) > 0.
