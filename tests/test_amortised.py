"""A generator from corpus to gallery: trained, killed and resumed, asked for prompts it never saw,
scored."""
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from refusals import refused

from configs import toybox_amortised
from jaxdreamer import build, cli, export, generate, generator_eval, loop, prompts, runs
from jaxdreamer.outputs import gallery

CORPUS = ('a red cube', 'a blue cube', 'a red sphere', 'a blue sphere',
          'a green cone on a blue cube')
SMALL = {'steps': 6, 'preview_every': 3, 'checkpoint_every': 2, 'log_every': 2, 'corpus.prompts': 2,
         'sampling.views': 2,
         'mesh.data': 1, 'render.samples': 4, 'render.fine': 0, 'eval.size': 16, 'eval.samples': 8,
         'eval.mesh_resolution': 12,
         'scene.name': 'hyper_ingp', 'scene.hyper_ingp.levels': 2}


@pytest.fixture
def config(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  path = tmp_path / 'corpus.txt'
  path.write_text('\n'.join(CORPUS) + '\n')
  config = toybox_amortised.get_config('sds')
  config.update_from_flattened_dict(SMALL | {'corpus.path': str(path)})
  return config


@pytest.mark.slow
def test_a_generator_killed_in_the_middle_of_an_epoch_sees_the_prompts_of_an_unbroken_run(
    config, tmp_path, monkeypatch):
  seen, deadly = [], set()
  chosen = prompts.chosen
  def spy(*args, **options):
    if options['step'] in deadly:
      raise RuntimeError('killed')
    out = chosen(*args, **options)
    seen.append((options['step'], tuple(out)))
    return out
  monkeypatch.setattr(prompts, 'chosen', spy)
  mesh = build.make_mesh(config)
  loop.run(config, tmp_path / 'whole', mesh)
  whole = dict(seen)
  seen.clear()
  deadly.add(5)  # the newest checkpoint is 4, and both are in the middle of an epoch
  with pytest.raises(RuntimeError, match='killed'):
    loop.run(config, tmp_path / 'broken', mesh)
  assert not (tmp_path / 'broken' / 'gallery.html').exists()
  deadly.clear()
  loop.run(config, tmp_path / 'broken', mesh)
  assert [step for step, _ in seen] == [0, 1, 2, 3, 4, 4, 5]
  assert dict(seen) == whole and len(whole) == 6
  whole, broken = ((tmp_path / name / 'metrics.jsonl').read_text() for name in ('whole', 'broken'))
  assert whole == broken and len(whole.splitlines()) == 3
  params = [runs.restore_state(tmp_path / name)[2].params for name in ('whole', 'broken')]
  jax.tree.map(np.testing.assert_array_equal, *params)
  assert (tmp_path / 'whole' / 'gallery.html').stat().st_size > 10_000

  _, model, scene, _ = runs.restore(tmp_path / 'whole')
  splits = {'trained': CORPUS[:2], 'held_out': ('a yellow torus',)}
  found = list(generator_eval.make_rows(model, scene, splits))
  assert [row.split for row in found] == ['trained', 'trained', 'held_out']
  figures = generator_eval.summary(found)
  of_two = figures['trained']['iou']
  # two prompts tell little, but something
  assert of_two.lower <= of_two.mean <= of_two.upper and 0. <= of_two.mean <= 1.
  assert 0. <= figures['held_out']['iou'].mean <= 1. and np.isnan(figures['held_out']['iou'].upper)
  xyz = jnp.linspace(-.5, .5, 30).reshape(10, 3)
  of_prompts = [model.object(scene, prompt) for prompt in CORPUS[:2]]
  for name in ('density', 'color'):                                   # the prompt matters
    one, other = (getattr(object, name)(xyz) for object in of_prompts)
    assert (one != other).any()

  file = tmp_path / 'new' / 'mine.safetensors'
  monkeypatch.setattr(cli, 'compile_cache', lambda: '')
  monkeypatch.setattr(flags, 'FLAGS', types.SimpleNamespace(
    workdir=str(tmp_path / 'whole'), generator=str(file), out=None, formats=[], prior='',
    tokenizer='', tokenizer_2=''))
  assert export.main() == 0
  (tmp_path / 'corpus.txt').unlink()             # the file knows its prompts
  _, again, rounded, step = runs.restore_generator(file)
  assert (again.prompts, step) == (CORPUS, 6)
  np.testing.assert_allclose(again.object(rounded, CORPUS[0]).density(xyz),
                             of_prompts[0].density(xyz), rtol=.02)


@pytest.mark.parametrize(('changes', 'said'), [
  ({'corpus.prompts': 3}, 'config.corpus.prompts=3: must be'),
  ({'corpus.prompts': 8, 'sampling.views': 8}, 'there are 5'),
  ({'steps_per_call': 2}, 'config.steps_per_call=2: takes 1'),
  ({'prior.name': 'empirical'}, 'knows one caption'),
  ({'corpus.path': 'nowhere.txt'}, "config.corpus.path='nowhere.txt': no such file")])
def test_a_corpus_that_does_not_fit_is_refused_before_anything_compiles(config, changes, said):
  config.update_from_flattened_dict(changes)
  with refused(said, (ValueError, FileNotFoundError)):
    build.training(config, build.make_mesh(config))


def test_the_gallery_is_one_page_that_needs_no_network(tmp_path):
  rows = [gallery.Row(prompt, 'trained', np.full((4, 8, 8, 3), .5), {'iou': .5})
          for prompt in ('a <b>', 'a red cube')]
  page = gallery.write(tmp_path / 'gallery.html', rows, title='two </script> prompts').read_text()
  assert 'http' not in page.replace('http-equiv',
                                    '') and '</script> prompts' not in page and page.count(
                                        'data:image/png') == 2


def test_every_prompt_has_a_folder_of_its_own(tmp_path):
  found = generate.folders_of(tmp_path, ('A red cube!', '!!!', 'a red, cube'))
  assert [path.name for path in found] == ['a-red-cube', 'prompt', 'a-red-cube-3']
