"""A generator as one file, and what generate makes of it without a workdir."""
import json
import os
import pathlib
import subprocess
import sys
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from absl import flags
from refusals import refused

from configs import toybox_amortised
from jaxdreamer import build, cli, export, generate, generator_eval, options, places, runs, seeds
from jaxdreamer.configs import base
from jaxdreamer.priors import toybox
from jaxdreamer.weights import safetensors_io

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROMPTS = ('a red cube', 'a blue torus')
TINY = {'eval.size': 24, 'eval.samples': 24, 'eval.fine': 4, 'seed': 3,
        'scene.triplane_transformer.tokens': 2, 'scene.triplane_transformer.blocks': 1,
        'scene.triplane_transformer.features': 2, 'scene.triplane_transformer.hidden': 8}


def tiny():
  """An untrained generator, which makes gray spheres of radius .5, with numbers of every size."""
  config = toybox_amortised.get_config('sds')
  config.update_from_flattened_dict(TINY)
  params = build.make_scene(config).init(seeds.key(3))
  model = build.model(config, lambda prompt: None, PROMPTS)
  return runs.Restored(config, model, params, 7)


@pytest.fixture
def file(tmp_path):
  one, path = tiny(), tmp_path / 'mine.safetensors'
  runs.save_generator(path, one, places.contents(one.config))
  return path


def test_what_comes_back_is_the_generator_rounded_to_half_precision(file):
  want, found = tiny(), runs.restore_generator(file)
  chex.assert_trees_all_equal_structs(found.params, want.params)
  for a, b in zip(*map(jax.tree.leaves, (want.params, found.params)), strict=True):
    assert b.dtype == jnp.float32
    # half an ulp of 11 bits, or of the least subnormal
    assert (np.abs(a - b) <= np.maximum(np.abs(a) * 2. ** -11, 2. ** -25)).all()
    np.testing.assert_array_equal(b, np.asarray(a, np.float16).astype(np.float32))
  assert (found.step, found.model.prompts) == (7, PROMPTS)
  assert file.stat().st_size < 1.1 * sum(2 * a.size for a in jax.tree.leaves(want.params)) + 12_000


def test_its_config_is_todays_defaults_updated_by_its_own(file):
  config = runs.restore_generator(file).config
  assert options.flatten(config.to_dict()) == options.flatten(tiny().config.to_dict())
  # options of scenes and priors that it does not use are not its matter, whatever becomes of them
  told = options.flatten(runs.told(file)['config'])
  assert not [name for name in told if name.startswith(('scene.voxels', 'estimator.csd'))]
  defaults = options.flatten(base.get_config().to_dict())
  changed = {name for name, value in options.flatten(config.to_dict()).items()
             if value != defaults[name]}
  assert changed <= told.keys() and {*TINY, 'scene.name', 'corpus.path'} <= changed


def test_a_text_is_what_the_whole_prior_embeds_and_made_once(file, monkeypatch):
  found, made = runs.restore_generator(file), []
  read = toybox.embed
  monkeypatch.setattr(toybox, 'embed', lambda *args: made.append(args[1:]) or read(*args))
  for _ in range(2):
    text = found.model.embed('a pink teapot')
  found.model.object(found.params, 'a pink teapot')
  assert made == [('a pink teapot', '')]
  chex.assert_trees_all_equal(text, toybox.toybox().embed('a pink teapot'))


@pytest.mark.parametrize('value', [1e6, np.nan])
def test_a_parameter_that_half_precision_cannot_hold_is_refused(tmp_path, value):
  one, path = tiny(), tmp_path / 'mine.safetensors'
  one.params['field']['sdf'][0] = one.params['field']['sdf'][0].at[0, 0].set(value)
  with refused(r"mine.safetensors: float16 cannot hold, or not finite: \['field.sdf.0'\]"):
    runs.save_generator(path, one, {})
  assert not path.exists()


def test_files_that_are_none_are_refused(tmp_path, file):
  with refused('prior.safetensors holds no generator: its metadata lack config'):
    runs.restore_generator(toybox.SHIPPED)
  with refused('none.safetensors', FileNotFoundError):
    runs.restore_generator(tmp_path / 'none.safetensors')
  told = runs.told(file)
  def rewritten(**changes):
    safetensors_io.save(file, runs.named(tiny().params), metadata=told | changes)
    return runs.restore_generator(file)
  with refused('mine.safetensors: config.negative is called .* change it in its metadata'):
    rewritten(config=told['config'] | {'negative': 'dull'})
  with refused('mine.safetensors does not fit the model: '):
    rewritten(config=told['config'] | {'scene': told['config']['scene'] | {
      'triplane_transformer': {'tokens': 4}}})
  other = rewritten(contents={'prior.path': 'sha256 0000'})
  with refused('this run was trained with sha256 0000: give --prior'):
    other.model.embed('a red cube')


def given(monkeypatch, **changes):
  """The flags of generate and export, in this process."""
  names = dict.fromkeys(('prompt', 'prompts', 'workdir', 'generator', 'out', 'prior', 'tokenizer',
                         'tokenizer_2'), '')
  monkeypatch.setattr(cli, 'compile_cache', lambda: '')
  monkeypatch.setattr(flags, 'FLAGS', types.SimpleNamespace(**names | {
    'formats': [], 'faces': 0, 'texture': 0} | changes))


@pytest.mark.parametrize(('changes', 'said', 'status'), [
  ({}, '--prompt="a red cube" or --prompts=FILE', cli.MISUSED),
  ({'prompt': 'a red cube', 'workdir': 'a', 'generator': 'b'}, '--workdir=RUN or --generator=FILE',
   cli.MISUSED),
  ({'prompt': 'a red cube'}, 'none.safetensors, the shipped generator, is not here: give '
   '--generator=FILE', cli.FAILED)])
def test_generate_says_in_one_line_what_to_give(monkeypatch, tmp_path, capsys, changes, said,
                                                status):
  monkeypatch.setattr(runs, 'SHIPPED', tmp_path / 'none.safetensors')
  given(monkeypatch, **changes)
  with pytest.raises(SystemExit) as left:
    generate.main()
  told = capsys.readouterr().err
  assert left.value.code == status and said in told and told.count('\n') == 1


@pytest.mark.parametrize(('name', 'prompts', 'said'), [
  ('mine.safetensors', PROMPTS[:1], '--generator: --workdir='),
  ('mine', PROMPTS, 'mine: takes the path of a .safetensors file')])
def test_export_writes_generators_alone_and_by_their_name(monkeypatch, tmp_path, capsys, name,
                                                          prompts, said):
  one = tiny()
  one = one._replace(model=one.model._replace(prompts=prompts))
  monkeypatch.setattr(runs, 'restore', lambda *_, **__: one)
  given(monkeypatch, workdir=str(tmp_path), generator=str(tmp_path / name))
  with pytest.raises(SystemExit) as left:
    export.main()
  told = capsys.readouterr().err
  assert left.value.code == cli.MISUSED and said in told and told.count('\n') == 1
  assert not list(tmp_path.iterdir())


def command(folder, *args):
  return subprocess.run([sys.executable, '-m', 'jaxdreamer.generate', *map(str, args)], cwd=folder,
                        capture_output=True, text=True, timeout=300,
                        env={**os.environ, 'PYTHONPATH': str(ROOT)})


@pytest.mark.slow
def test_generate_needs_no_workdir(file, tmp_path):
  (tmp_path / 'two.txt').write_text('a red cube\na pink teapot\n')
  done = command(tmp_path, f'--generator={file}', '--prompts=two.txt', '--resolution=24',
                 '--frames=8', '--height=24')
  assert done.returncode == 0, done.stderr[-2000:]
  out = tmp_path / 'generated'
  assert {path.name for path in out.iterdir()} == {'a-red-cube', 'a-pink-teapot', 'gallery.html'}
  for folder in (out / 'a-red-cube', out / 'a-pink-teapot'):
    assert {path.name for path in folder.iterdir()} == {
      'turntable.mp4', 'turntable.png', 'mesh.glb', 'mesh.obj', 'mesh.mtl', 'mesh.color.png',
      'mesh.bump.png', 'mesh.ply', 'mesh.json', 'mesh.png', 'report.json', 'report.html'}
    mesh = trimesh.load(folder / 'mesh.glb', force='mesh')
    # the sphere that every scene starts from
    assert mesh.extents == pytest.approx(np.ones(3), abs=.15)
    page = (folder / 'report.html').read_text()
    assert 'data:video/mp4' in page and 'class="no-mesh' not in page and str(file) in page
  assert json.loads((out / 'a-red-cube' / 'report.json').read_text())['about']['step'] == 7


@pytest.mark.slow
def test_a_prompt_outside_the_toybox_is_answered_before_any_is_made(file, tmp_path):
  (tmp_path / 'two.txt').write_text('a red cube\na red zebra\n')
  done = command(tmp_path, f'--generator={file}', '--prompts=two.txt')
  assert done.returncode == cli.FAILED and 'zebra' in done.stderr
  assert len(done.stderr.splitlines()) == 1 and not (tmp_path / 'generated').exists()


@pytest.mark.slow
def test_the_shipped_generator_makes_a_red_cube():
  assert runs.SHIPPED.stat().st_size < 10e6 and runs.SHIPPED.with_suffix('.md').exists()
  _, model, params, _ = runs.restore_generator(runs.SHIPPED)
  row, = generator_eval.make_rows(model, params, {'trained': ('a red cube',)})
  assert row.scores['iou'] > .85
