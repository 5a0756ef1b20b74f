"""What does not fit is refused with what does: the changes that are offered are tried here, and no
other is offered."""
import copy
import re

import pytest
from refusals import refused
from test_guard import SMALL

from configs import toybox
from jaxdreamer import build, checks, finishing, fitting, loop, metrics, options

CONFIGS = {
  'views': ({'sampling.views': 8}, 2), 'rings': ({'sampling.views': 16, 'sampling.design': 'rings'},
                                                 2),
  'prompts': ({'sampling.views': 16, 'corpus.path': 'toybox', 'corpus.prompts': 4,
               'scene.name': 'conv3d'}, 2),
  'accumulated': ({'optim.accumulate': 3}, 1), 'chunks': ({'render.chunk': 64,
                                                           'render.remat': True}, 1),
  'the least': ({'sampling.views': 4, 'render.samples': 8, 'render.chunk': 64,
                 'render.remat': True}, 4)}


def make_config(changes):
  config = toybox.get_config()
  config.update_from_flattened_dict(SMALL | changes)
  return config


@pytest.mark.parametrize('name', CONFIGS)
def test_each_change_is_a_config_of_the_same_mean(name):
  changes, devices = CONFIGS[name]
  config = make_config(changes | {'mesh.data': devices})
  mesh, seen = build.make_mesh(config), []
  for way in fitting.ladder(config, mesh):
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict(way)
    checks.check(changed, mesh)
    assert build.make_mesh(changed).devices.size == devices
    assert (changed.sampling.views * changed.optim.accumulate
            == config.sampling.views * config.optim.accumulate)
    assert changed.to_dict() != config.to_dict() and changed.to_dict() not in seen
    seen.append(changed.to_dict())
  assert bool(seen) == (name != 'the least')


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_refused_with_changes_that_do(tmp_path, monkeypatch):
  config = make_config({'mesh.data': 1, 'render.samples': 32, 'log_every': 2})
  monkeypatch.setattr(finishing, 'finish', lambda *_, **__: {})
  monkeypatch.setattr(options, 'picture_bytes', lambda config: 0)
  whole = fitting.needed(config, build.make_mesh(config), build.make_prior(config))
  monkeypatch.setattr(metrics, 'free_memory', lambda: whole * 11 // 20)
  with refused('a step needs .*; these fit, the cheapest first: --config') as error:
    loop.run(config, tmp_path / 'whole', build.make_mesh(config))
  ways = str(error.value).split('first: ')[1].split('; ')
  assert len(ways) == fitting.OFFERED
  for place, way in enumerate(ways):
    given = dict(re.findall(r'--config\.(\S+)=(\S+)', way))
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict({name: int(value) for name, value in given.items()})
    assert loop.run(changed, tmp_path / str(place), build.make_mesh(changed)).why == 'done'
  # rays in chunks, the cheapest, are no way here, where a chunk holds them all
  assert not any('chunk' in way for way in ways)


def test_where_nothing_fits_that_is_said(monkeypatch):
  config = make_config({'mesh.data': 1, 'sampling.views': 2})
  monkeypatch.setattr(metrics, 'free_memory', lambda: 1)
  monkeypatch.setattr(fitting, 'needed', lambda *_: 2)
  assert 'no chunks of rays, fewer views or samples fit either' in fitting.ways(
    config, build.make_mesh(config), build.make_prior(config))
  monkeypatch.setattr(fitting, 'SECONDS', -1.)
  monkeypatch.setattr(fitting, 'needed', None)
  assert fitting.fitting(config, build.make_mesh(config), build.make_prior(config), 1) == []
