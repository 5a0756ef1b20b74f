"""The toybox benchmark: it goes on after an interruption, says what failed, and sums up what the
runs wrote. The UNet's: it is fair to both."""
import functools
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from PIL import Image

from benchmarks import (
  amortised,
  assets,
  behavior,
  compile,
  estimators,
  full_size,
  generator,
  real_path,
  results,
  scaling,
  scaling_model,
  texturing,
  toybox,
  unet,
  variance,
)
from jaxdreamer import method_texts, schedules, statistics
from jaxdreamer.meshes import files
from jaxdreamer.outputs import bake, gallery, given, mesh_files, surface, unwrap
from jaxdreamer.toybox import truth

WRITES = '''
import json, pathlib, sys
options = dict(a.removeprefix('--').split('=', 1) for a in sys.argv[1:] if '=' in a)
workdir = pathlib.Path(options['workdir'])
if 'fail' in options.get('config.prompt', ''):
  sys.exit('no such thing')
if 'jaxdreamer.evaluate' in sys.argv:
  trained = json.loads((workdir / 'trained').read_text())
  scores = dict.fromkeys(SCORES) | {'silhouette_iou': trained, 'pose_gap': .1}
  (workdir / 'scores.json').write_text(json.dumps({'scores': scores}))
else:
  (workdir / 'metrics.jsonl').write_text('{}')
  (workdir / 'trained').write_text(str(.5 + .25 * ('empirical' in options['config'])))
  seconds = 10. if options.get('config.scene.name') == 'voxels' else 12.
  about = {'seconds': {'steps': seconds, 'scores': 3.}}
  (workdir / 'report.json').write_text(json.dumps({'about': about}))
'''


@pytest.fixture
def trainer(tmp_path, monkeypatch):
  """A stand-in for `python -m jaxdreamer.train` that writes scores at once."""
  script = tmp_path / 'python'
  script.write_text(f'#!{sys.executable}\nSCORES = {list(toybox.SCORES.values())}\n{WRITES}')
  script.chmod(0o755)
  monkeypatch.setattr(toybox.sys, 'executable', str(script))
  return tmp_path / 'runs'


def test_runs_are_kept_and_an_interrupted_one_starts_anew(trainer):
  rows = toybox.run(('a red cube', 'a blue torus'), trainer, (), toybox.VARIANTS)
  assert [row['iou'] for row in rows['default']] == [.5, .5]
  assert [row['iou'] for row in rows['empirical']] == [.75, .75]
  figures = toybox.summary(rows)
  assert figures['mean_iou'] == .5 and figures['empirical_mean_iou'] == .75 and figures[
      'mean_mesh_iou'] == 0.
  assert figures['parts'] == {'steps': 12., 'scores': 3.}
  assert figures['steps_over_voxels'] == 1.2 and 'chamfer_over_voxels' not in figures
  row = rows['default'][0]
  assert 0 < row['first_step_seconds'] <= row['seconds'] and row['peak_gib'] > 0
  torus = trainer / 'default' / 'a-blue-torus.json'
  torus.unlink()
  (trainer / 'default' / 'a-blue-torus' / 'half').touch()
  again = toybox.run(('a red cube', 'a blue torus'), trainer, (), toybox.VARIANTS)
  assert again['default'][0] == row and torus.exists()
  assert not (trainer / 'default' / 'a-blue-torus' / 'half').exists()


def test_a_run_that_fails_is_named_with_its_last_words(trainer):
  with pytest.raises(SystemExit, match='config.prompt=to fail(.|\n)*ended with 1(.|\n)*no '
                     'such thing'):
    toybox.run(('to fail',), trainer, (), toybox.VARIANTS)


def test_the_sheet_has_a_captioned_tile_a_prompt(trainer):
  for name in ('a-red-cube', 'a-blue-torus'):
    (trainer / 'default' / name).mkdir(parents=True)
    Image.new('RGB', (80, 30), 'red').save(trainer / 'default' / name / 'turntable.png')
  toybox.sheet(('a red cube', 'a blue torus'), trainer, trainer / 'sheet.png')
  picture = Image.open(trainer / 'sheet.png')
  assert picture.size == (80, 35)
  assert [picture.getpixel((x, 30)) for x in (10, 30, 50)] == [(255, 0, 0), (255, 0, 0),
                                                               (255, 255, 255)]


def test_drawn_captions_are_run_by_the_default_alone_and_those_of_least_iou_shown(
    trainer, tmp_path, monkeypatch):
  drawn, shown = ('a red cube', 'a blue torus', 'a yellow mug'), []
  kept = trainer / f'toybox-{toybox.source_hash()}' / 'default'
  monkeypatch.setattr(toybox, 'drawn', lambda n: drawn[:n])
  monkeypatch.setattr(toybox, 'LEAST', 2)
  monkeypatch.setattr(toybox, 'sheet', lambda prompts, *_, **__: shown.append(prompts))
  monkeypatch.setattr(results, 'RESULTS', tmp_path)
  monkeypatch.setattr(toybox.sys, 'argv', ['toybox', '--prompts=3'])
  real = toybox.run
  monkeypatch.setattr(toybox, 'run', lambda prompts, root, options, variants: real(
    prompts, kept.parent, options, variants))
  kept.mkdir(parents=True)
  for prompt, iou in zip(drawn, (.9, .6, .7)):
    row = {'prompt': prompt, **dict.fromkeys(toybox.SCORES), 'iou': iou, 'pose_gap': 0.,
           'seconds': 1., 'first_step_seconds': 1., 'peak_gib': 1., 'parts': {'scores': 1.}}
    (kept / f'{prompt.replace(" ", "-")}.json').write_text(json.dumps(row))
  toybox.main()
  figures = results.read('captions')
  assert [row['prompt'] for row in figures['least']] == ['a blue torus', 'a yellow mug']
  assert len(figures['rows']) == 3 and 'empirical_mean_iou' not in figures
  assert shown == [['a blue torus', 'a yellow mug']]
  assert figures['made']['command'] == 'python -m benchmarks.toybox --prompts=3'


@pytest.mark.parametrize(('groups', 'devices'), [
  ('{{0,1,2,3}}', 4), ('{{0,1},{2,3}}', 2), ('[1,4]<=[4]', 4), ('[2,2]<=[4]', 2),
  ("mesh['data'=2,'model'=4] {'data','model'}", 8), ("mesh['data'=2,'model'=4] {'model'}", 4)])
def test_the_devices_of_a_collective_are_read_however_they_are_written(groups, devices):
  line = f'%a = f32[2,4]{{1,0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%r'
  assert scaling.collectives(line) == [('all-reduce', 32, devices)]


def test_the_hash_of_the_sources_changes_with_them(tmp_path, monkeypatch):
  monkeypatch.setattr(results, 'ROOT', tmp_path)
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'base.py').write_text('a = 1\n')
  before = toybox.source_hash()
  assert toybox.source_hash() == before
  (tmp_path / 'configs' / 'base.py').write_text('a = 2\n')
  assert toybox.source_hash() != before
  (tmp_path / 'mine.py').write_text('x')
  before = toybox.source_hash('mine.py')
  (tmp_path / 'mine.py').write_text('y')
  assert toybox.source_hash('mine.py') != before


def test_functions_that_take_turns_are_timed_without_their_first_call():
  calls = []
  seconds = unet.medians({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')
                          or time.sleep(.002)}, repeats=3)
  assert calls == ['a', 'b'] * 4 and seconds['a'] < .002 <= seconds['b']


HLO = """
  %a.1 = f32[4,181770]{1,0} all-reduce(%b), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%r
  %g.2 = (bf16[8,64]{1,0}, f32[]) all-gather-start(%p), replica_groups=[2,4]<=[8], dimensions={0}
  %s.3 = f32[9]{0} all-reduce(%b), replica_groups={{0},{1}}, to_apply=%r
  %f.4 = f32[9]{0} fusion(%all-reduce.1), kind=kLoop
"""


def test_collectives_are_read_from_a_compiled_program():
  """Those of one device alone are none."""
  assert scaling.collectives(HLO) == [('all-reduce', 4 * 4 * 181770, 4),
                                      ('all-gather', 2 * 8 * 64 + 4, 4)]


def test_a_mean_over_devices_takes_what_its_links_take():
  """Within a domain a ring's two passes; across, of what each device holds of it; and the time of
  a step is no less for more devices than the arithmetic that each still has."""
  device = scaling_model.Device(flops=1e12, within=1e9, domain=4, across=1e8)
  near = scaling_model.mean_seconds(1e9, 4, device)
  waits = 2 * 2 * scaling_model.LATENCY['within']
  assert near == pytest.approx(2 * .75 / scaling_model.REACHED + waits)
  far = scaling_model.mean_seconds(1e9, 8, device) - near
  assert far == pytest.approx(2 * .5 * .25e9 / (scaling_model.REACHED * 1e8)
                              + 2 * scaling_model.LATENCY['across'])
  assert scaling_model.mean_seconds(1e9, 1, device) == 0.
  work = {'flops': 1e12, 'bytes': 1e9, 'views': 1, 'most': 8}
  of = {n: scaling_model.step(work, n, device) for n in (1, 8, 16)}
  assert of[1]['efficiency'] == 1. and of[1]['compute'] == 8 * of[8]['compute']
  assert of[16]['compute'] == of[8]['compute'] and of[16]['views'] == 16
  assert of[16]['efficiency'] < of[8]['efficiency'] < 1.


@pytest.mark.slow
def test_devices_are_compared_in_processes_of_their_own():
  done = subprocess.run((sys.executable, '-m', 'benchmarks.scaling', '--quick'), cwd=results.ROOT,
                        stdout=subprocess.PIPE, text=True)
  assert done.returncode == 0
  figures = json.loads(done.stdout.splitlines()[-1])
  assert figures['collectives_per_step'] == 1
  assert 0 < figures['device_count_max_relative_difference'] < 1e-4
  one, two = figures['rows']
  assert one['bytes_cpu'] == 0 and two['bytes_cpu'] == 2 * two['bytes_accelerator']
  assert 0 < two['bytes_accelerator'] - 4 * two['parameters'] < 64


@pytest.mark.slow
def test_fewer_rays_are_timed_by_turns_and_held_against_the_whole():
  done = subprocess.run((sys.executable, '-m', 'benchmarks.rays', '--quick'), cwd=results.ROOT,
                        capture_output=True, text=True, timeout=400)
  assert done.returncode == 0, done.stderr[-2000:]
  rows = {row['way']: row for row in json.loads(done.stdout)}
  base = next(iter(rows))
  assert rows[base]['times_as_fast'] == 1. and all(row['seconds'] > 0. for row in rows.values())
  assert rows[base]['no_room'] == rows['256, none proposed']['no_room'] == 0.
  assert rows['of 3/4 of the rays']['no_room'] <= rows['of 1/2']['no_room'] < rows['of 1/4'][
    'no_room']
  assert rows[base]['psnr'] > rows['of 1/4']['psnr'] > 5.


@pytest.mark.slow
def test_the_networks_are_timed_beside_torch():
  for name in ('torch', 'diffusers'):
    pytest.importorskip(name)
  before = sorted(results.RESULTS.iterdir())
  done = subprocess.run([sys.executable, '-m', 'benchmarks.unet', '--quick'], cwd=results.ROOT,
                        capture_output=True, text=True,
                        timeout=300)
  assert done.returncode == 0, done.stderr[-2000:]
  figures = json.loads(done.stdout.splitlines()[-1])
  for kind in ('fp32', 'bf16'):
    assert figures[f'jax_over_torch_eager_{kind}'] == figures[f'jax_seconds_{kind}'] / figures[
        f'torch_seconds_{kind}'] > 0
  assert sorted(results.RESULTS.iterdir()) == before


def test_what_several_processes_measured_is_one_table_with_the_reference_once():
  def part(method, x, over='sds'):
    rows = [{'method': 'sds', 'over': 'sds', 'x': x}, {'method': method, 'over': over, 'x': x}]
    return {'prompts': ['a red car'], 'all': rows, 'states': [{'step': step, 'rows': rows}
                                                              for step in (0, 50)],
            'by_prompt': [{'prompt': 'a red car', 'rows': rows}]}
  expected = [{'method': 'sds', 'over': 'sds', 'x': 1}, {'method': 'ssd', 'over': 'sds', 'x': 1},
              {'method': 'csd of=measured', 'over': 'csd of=measured', 'x': 2}]
  assert variance.merged([part('ssd', 1), part('csd of=1.5,2', 2, 'csd of=1.5,2')], '1.5,2') == {
    'prompts': ['a red car'], 'all': expected, 'states': [{'step': 0, 'rows': expected},
                                                          {'step': 50, 'rows': expected}],
    'by_prompt': [{'prompt': 'a red car', 'rows': expected}]}


def test_each_process_measures_the_first_of_every_mean_that_it_has():
  methods = [method.format('1,2') for method in variance.METHODS]
  groups = variance.groups(methods)
  mean = lambda method: method_texts.mean_of(
      method_texts.configured(estimators.config_file.get_config(), method))
  first = {}
  for method in methods:
    first.setdefault(mean(method), method)
  for group in groups:
    assert group[0] == 'sds' and len(group) <= 1 + variance.TOGETHER
    assert all(first[mean(method)] in group for method in group)
  assert sorted(set().union(*groups)) == sorted(methods) and len(variance.PROMPTS) >= 5


def test_what_was_measured_is_kept_by_prompts_and_options(tmp_path, monkeypatch):
  ran = []
  def run(command, cwd):
    out, = (word.removeprefix('--out=') for word in command if word.startswith('--out='))
    ran.append(command)
    results.ROOT.joinpath(out).mkdir()
    results.ROOT.joinpath(out, 'variance.json').write_text(json.dumps(len(ran)))
    return subprocess.CompletedProcess(command, 0)
  monkeypatch.setattr(variance.subprocess, 'run', run)
  car, cube = ('a red car',), ('a red car', 'a red cube')
  asked = [(car, '--at=0'), (car, '--at=50'), (cube, '--at=0'), (car, '--at=0')]
  assert [variance.measure(prompts, tmp_path, 'abc', option) for prompts, option in asked] == [
      1, 2, 3, 1]
  assert len(ran) == 3 and '--prompts=a red car; a red cube' in ran[2]


def test_a_run_of_other_sources_is_in_no_table(tmp_path):
  results.keep(tmp_path / 'a.json', {'iou': .5}, 'abc')
  assert results.kept(tmp_path / 'a.json', 'abc') == {'iou': .5} and results.kept(
      tmp_path / 'b.json', 'abc') is None
  with pytest.raises(SystemExit, match='a.json: a run of the sources abc, and these are def'):
    results.kept(tmp_path / 'a.json', 'def')
  # put there by hand, or by an older benchmark: it does not say
  (tmp_path / 'old.json').write_text('{"iou": 0.5}')
  with pytest.raises(SystemExit, match='of the sources None'):
    results.kept(tmp_path / 'old.json', 'abc')


@pytest.mark.parametrize('method', estimators.METHODS)
def test_estimators_are_compared_at_equal_prior_calls(method):
  calls = estimators.rows_of(method) * estimators.steps_of(method, 200)
  assert abs(calls / (estimators.rows_of('sds') * 200) - 1.) < .1


def test_published_variants_anneal_over_their_own_run_and_pay_for_their_rows():
  published = {method.split()[0]: method for method in estimators.METHODS
               if method.endswith(tuple(estimators.PUBLISHED.values()))}
  assert set(published) == {'asd', 'csd', 'vsd'}
  assert {name: estimators.rows_of(method) for name, method in published.items()} == {
      'asd': 5, 'csd': 3, 'vsd': 6}
  for name, method in published.items():
    steps = estimators.steps_of(method, 200)
    config = method_texts.configured(estimators.config_file.get_config(),
                                     estimators.spelled(method, steps))
    high = functools.partial(schedules.at, config.sampling.t_max)
    assert high(0) == pytest.approx(.98) and high(steps) == pytest.approx(.5)
    assert config.estimator[name].get('guidance', (7.5,)) == (7.5,)
    if name == 'asd':
      low = functools.partial(schedules.at, config.sampling.t_min)
      assert low(0) == pytest.approx(.5) and low(steps) == pytest.approx(
          .02) and config.perp_neg == .5
      assert high(steps // 2) == pytest.approx(.74)
    if name == 'csd':
      share = config.estimator.csd.omega2
      assert [float(schedules.at(share, step)) for step in (0, steps // 2, steps)] == [
          0., 1., 1.] and config.negative_prompt
      assert config.sampling.weight == 'uniform' and high(steps // 2) == pytest.approx(.98)


def a_run(*ious):
  return {'iou': ious[-1], 'color': True, 'one_front': None, 'steps': 20, 'relative_variance': 2.,
          'curve': [{'step': 10 * (i + 1), 'iou': iou} for i, iou in enumerate(ious)]}


def test_a_comparison_says_what_each_method_needs_and_makes():
  method, rounds = 'csd sampling.draws=2', np.linspace(.95, 1.05, 9)
  rows = {('sds', 'cube'): [a_run(.75, .95), a_run(.7, .85)],
          ('sds', 'torus'): [a_run(.8, .9), a_run(.85, .92)],
          (method, 'cube'): [a_run(.6, .78), a_run(.6, .8)],
          (method, 'torus'): [a_run(.9, .95), a_run(.91, .95)]}
  figures = estimators.summary(rows, ('cube', 'torus'), {'sds': (.2 * rounds, 20.),
                                                         method: (.3 * rounds[::-1], 25.)})
  assert figures['prompts_recognizable'] == {'sds': 2, method: 1, 'min': 1, 'of': 2}
  first, second = figures['rows']
  assert first['iou'] == pytest.approx(.905) and first['iou_lower'] < .905 < first['iou_upper']
  assert (first['steps_to_0.8'], first['one_front']) == (10, None) and first[
      'seconds_to_0.8'] == pytest.approx(2.)
  assert (second['steps_to_0.8'], second['steps_to_0.9']) == (10, 10) and second[
      'seconds'] == pytest.approx(6.)
  assert second['cost'] == pytest.approx(1.5) and second['cost_lower'] < 1.5 < second['cost_upper']
  assert second['row_over_sds'] == pytest.approx(.75) and second['compile_seconds'] == 25.
  assert second['seconds_lower'] < 6. < second['seconds_upper']
  assert second['iou_above_sds'] == pytest.approx((-.11 + .04) / 2.)
  assert second['relative_variance'] == 2.
  rows['sds', 'cube'][1]['relative_variance'] = float('inf')     # noise hides the mean gradient
  figures = estimators.summary(rows, ('cube', 'torus'), {'sds': (.2 * rounds, 20.)})
  assert figures['rows'][0]['relative_variance'] is None is figures['runs'][1]['relative_variance']
  json.dumps(figures, allow_nan=False)


def test_seeds_of_one_prompt_make_no_interval_narrower():
  """Three seeds that say the same thrice say it once: the interval is that of the prompts' means,
  Student's."""
  prompts = tuple('abcdef')
  means = np.array([.7, .75, .8, .85, .9, .95])
  rows = {('sds', p): [a_run(m + d) for d in (-.01, 0., .01)] for p, m in zip(prompts, means)}
  row, = estimators.summary(rows, prompts, {'sds': (np.full(6, .2), 1.)})['rows']
  half = 2.571 * means.std(ddof=1) / np.sqrt(6)
  assert row['iou_upper'] - row['iou'] == pytest.approx(half, rel=.15)
  assert row['iou_above_sds'] == row['iou_above_sds_lower'] == row['iou_above_sds_upper'] == 0.


def test_the_best_method_is_chosen_on_some_seeds_and_told_from_others():
  rows = {(method, p): [a_run(x + .01 * i) for x in seeds] for i, p in enumerate('abc')
          for method, seeds in (('sds', (.8, .8, .8)), ('lucky', (.95, .7, .95)),
                                ('good', (.9, .9, .9)))}
  found = estimators.best(rows, ['sds', 'lucky', 'good'], tuple('abc'))
  assert found['name'] == 'lucky' and found['iou']['mean'] == pytest.approx(.71)
  assert found['iou_above_sds'] == pytest.approx({'mean': -.1, 'lower': -.1, 'upper': -.1})
  assert estimators.best({key: runs[:1] for key, runs in rows.items()}, ['sds'],
                         tuple('abc')) is None


def test_an_iou_that_most_runs_miss_is_not_reached():
  curve = lambda iou: {'curve': [{'step': 10, 'iou': iou}]}
  assert estimators.reached([curve(.9), curve(.6), curve(.5)], .8) is None
  assert estimators.reached([curve(.9), curve(.85), curve(.5)], .8) == 10


def test_generators_are_compared_prompt_by_prompt(tmp_path):
  for name, better in (('asd', 0.), ('sds', .05)):
    rows = [{'prompt': str(i), 'split': ('trained', 'held_out')[i % 2],
             'iou': .1 * (i // 2) + better * (1 + i % 2)}
            for i in range(12)]
    (tmp_path / name).mkdir()
    (tmp_path / name / 'scores.json').write_text(json.dumps({'prompts': rows}))
  assert amortised.differences(tmp_path, ['asd']) == {}
  above = amortised.differences(tmp_path, ['asd', 'sds'])['sds']
  assert above.keys() == {'train_iou', 'heldout_iou'}
  # the prompts' own spread of .5 is in no interval
  for score, by in (('train_iou', .05), ('heldout_iou', .1)):
    assert list(above[score].values()) == pytest.approx([by] * 3)


def test_the_shipped_generators_picture_is_of_held_out_compositions():
  color = {'a red cone on a blue cube': 1., 'a green cone on a blue cube': .5, 'a red cube': 0.}
  rows = [gallery.Row(prompt, split, np.full((8, 4, 4, 3), color[prompt]), {})
          for split, prompt in (('held_out', 'a red cube'), *(('held_out', p) for p in color),
                                ('trained', 'a red cone on a blue cube'))]
  picture = np.asarray(generator.picture(rows))
  assert picture.shape == (140, 8 * 120, 3)                # four tiles of two views, a caption
  assert (picture[20:, 240:480] == 128).all() and (picture[20:, :240] == 255).all()
  assert (picture[20:, 480:] == 255).all()


def test_the_shipped_generators_row_has_the_ends_of_its_intervals():
  scores = {'iou': statistics.Interval(.9, .8, 1.),
            'recall_at_1': statistics.Interval(.5, .25, .75)}
  assert generator.row_of('held_out', scores, 61) == {
    'captions': 'held out', 'prompts': 61, 'iou': .9, 'iou_lower': .8, 'iou_upper': 1.,
    'recall_at_1': .5, 'recall_at_1_lower': .25, 'recall_at_1_upper': .75}


def test_a_changed_missing_or_non_finite_case_is_no_equal_behavior(tmp_path, capsys):
  """One last bit is told from equal and passes, more does not; nan is not equal to itself."""
  def written(folder, **cases):
    (tmp_path / folder).mkdir()
    for name, leaf in cases.items():
      params = {'a': np.ones(2, np.float32), 'b': np.array([leaf, -4.], np.float32)}
      behavior.save(tmp_path / folder / name, params, {'loss': 1.}, {'loss': 2.})
    return tmp_path / folder

  def compared(only, tolerance=1e-6):
    bad = behavior.compare_all(other, base, [only], tolerance)
    return bad, capsys.readouterr().out.splitlines()
  base = written('base', same=1., bit=1., changed=1., lost=1., unsound=np.nan)
  other = written('other', same=1., bit=np.nextafter(np.float32(1.), np.float32(2.)), changed=1.5,
                  unsound=np.nan)
  assert compared('same') == (False, ['same                     equal'])
  passes, (line,) = compared('bit')
  assert not passes and '3.0e-08 apart' in line and '0.0e+00 in what' in line
  assert compared('bit', tolerance=1e-9)[0]
  for name, said in (('changed', '1.2e-01 apart'), ('lost', 'missing or failed'),
                     ('unsound', 'not finite')):
    fails, (line,) = compared(name)
    assert fails and said in line
  fails, lines = compared('')
  assert fails and len(lines) == 5               # all that either folder holds
  (other / 'same.npz').unlink()                  # as a case that could not be built leaves it
  assert compared('same')[0] and compared('nothing of this name') == (True, [])


def test_the_texture_of_a_glb_is_held_against_what_it_should_show(tmp_path):
  solid = trimesh.creation.icosphere(subdivisions=3, radius=.6)
  vertices, faces = np.array(solid.vertices), np.array(solid.faces)
  paint = lambda xyz, inward: .5 + .3 * xyz[:, [1, 2, 0]]
  whole = surface.Mesh(vertices, faces, np.full(vertices.shape, .5))
  made = bake.texture(whole, whole, unwrap.by_cells(vertices, faces, size=256), paint, size=256,
                      width=.02)
  mesh_files.save(made, tmp_path, formats=('glb',))
  difference = lambda paint: assets.texture_difference(tmp_path / 'mesh.glb', paint)
  assert difference(paint) < .002                # half a step of a byte is a quarter of it
  assert difference(lambda *at: paint(*at) + .125) == pytest.approx(.125, abs=.002)
  # points on the faces, and normals that point outward
  away = lambda xyz, inward: paint(xyz, inward) + (np.sum(xyz * inward, -1) > -.58)[:, None]
  assert difference(away) < .002


def test_the_mesh_to_be_colored_is_that_of_the_toy_with_uvs_that_can_be_kept(tmp_path, monkeypatch):
  for name, value in (('RESOLUTION', 32), ('FACES', 600), ('TEXTURE', 128)):
    monkeypatch.setattr(texturing, name, value)
  texturing.write_exact('a red ball', tmp_path / 'ball.glb')
  file = files.read(tmp_path / 'ball.glb', option='path')
  assert given.fault(file, size=128) == '' and abs(len(file.faces) - 600) < 20
  vertices, faces = files.weld(file)
  assert trimesh.Trimesh(vertices, faces, process=False).is_watertight
  away = np.abs(truth.shape('a red ball').distance(vertices.astype(np.float32)))
  assert away.max() < 2. / 31


def test_the_worst_prompt_makes_the_figures_of_assets():
  row = lambda **more: {'prompt': 'x', 'glb_seconds': 2., 'glb_mesh_iou': .99,
                        'gltf_errors': 0} | more
  figures = assets.summary([row(), row(glb_seconds=3., glb_mesh_iou=.98, gltf_errors=1)])
  assert figures['glb_seconds'] == 3. and figures['glb_mesh_iou'] == .98
  assert figures['gltf_errors'] == 1 and 'note' not in figures and len(figures['rows']) == 2
  missing = assets.summary([row(gltf_errors=None), row(gltf_errors=None)])
  assert missing['gltf_errors'] is None and 'gltf-validator' in missing['note']


def test_without_a_validator_nothing_is_said_of_a_glb(tmp_path, monkeypatch):
  monkeypatch.setenv('NODE_PATH', '')
  assert assets.validated(tmp_path / 'none.glb') == (None, None)
  monkeypatch.setattr(assets.shutil, 'which', lambda name: None)
  assert assets.validated(tmp_path / 'none.glb') == (None, None)


def test_the_real_path_gives_each_way_its_own_folder_and_counts_what_it_found(monkeypatch,
                                                                             tmp_path):
  asked = []
  def train(prompt, workdir, caches, options):
    workdir.parent.mkdir(parents=True, exist_ok=True)
    asked.append(' '.join(options))
    four = 'mvdream' in asked[-1]
    return {'prompt': prompt, 'iou': .9 if 'sds' in asked[-1] else .8, 'psnr': 20., 'seconds': 3.,
            'color_right': prompt == 'a', 'recall_at_1': .5,
            'one_front': four or 'seed=0' in asked[-1]}
  monkeypatch.setattr(real_path.toybox, 'train', train)
  found = real_path.objects(tmp_path, 'HERE', (), prompts=('a', 'b'))
  assert [row['method'] for row in found['rows']] == list(real_path.METHODS)
  assert found['mean_iou'] == .9 == found['min_iou'] and found['rows'][1]['color'] == .5
  assert all('prior.path=HERE' in options for options in asked) and len(asked) == 10
  shares = real_path.janus(tmp_path, 'HERE', 'THERE', ('--config.steps=3',), prompts=('a', 'b'),
                           seeds=(0, 1))
  assert shares == {'one_front_sd': .5, 'one_front_mvdream': 1.}
  for options in asked[10:]:
    assert ('prior.path=THERE' in options) == ('toybox_mvdream' in options)
    assert options.endswith('--config.steps=3') and options.count('prior.path') == 1
  assert real_path.objects(tmp_path, 'HERE', (), prompts=('a', 'b')) == found
  assert len(asked) == 18                                # what is kept is not run again


def test_restorers_with_vsd_and_without_are_compared_picture_by_picture(monkeypatch, tmp_path):
  """Means beside those of cubic enlargement, and the gain as a mean of differences."""
  weights, offset = [], np.linspace(0., 1., 32)
  monkeypatch.setattr(real_path.subprocess, 'run', lambda command, **_: weights.append(
    next(part[-1] for part in command if part.startswith('--config.scene.restoration.vsd='))))
  monkeypatch.setattr(real_path.runs, 'restorer',
                      lambda workdir: SimpleNamespace(restore=workdir.name))

  def score(key, restore):
    up = 2. if restore == 'restoration-with' else 0.
    return {'restoration_psnr': 25. + up + offset, 'bicubic_psnr': 20. + offset,
            'sharpness': .5 - up / 10. + 0. * offset, 'bicubic_sharpness': .25 + 0. * offset,
            'read': 0. * offset + up / 2., 'bicubic_read': 0. * offset,
            'true_read': 1. + 0. * offset}
  monkeypatch.setattr(real_path.restoration_eval, 'score', score)
  found = real_path.restoration(tmp_path, 'HERE', ())
  assert weights == ['1', '0']
  cubic, without, with_, gain = found['restoration']
  assert found['restoration_psnr'] == with_['psnr'] == pytest.approx(27.5, abs=.05)
  assert found['restoration_psnr_without_vsd'] == without['psnr'] == pytest.approx(25.5, abs=.05)
  assert found['bicubic_psnr'] == cubic['psnr'] == pytest.approx(20.5, abs=.05)
  assert cubic['sharpness'] == .25 and with_['read'] == 1. and cubic['read'] == 0.
  assert gain['sharpness'] == pytest.approx(-.2) and found['true_read'] == 1.
  assert with_['psnr_lower'] < with_['psnr'] < with_['psnr_upper']
  # as good on every picture, whatever the pictures are: an interval of no width
  assert gain['psnr_lower'] == pytest.approx(2.) == pytest.approx(gain['psnr_upper'])


def test_the_sheet_of_the_real_path_is_a_row_a_prompt_and_a_column_an_estimator(tmp_path):
  """Of each turntable the colors of five views, at half their size."""
  for level, method in ((40, 'sds'), (80, 'vsd')):
    for more, prompt in ((0, 'a cube'), (100, 'a mug')):
      strip = np.zeros((24, 64, 3), np.uint8)
      strip[:8, :40] = level + more                          # the rest is black
      (tmp_path / method / prompt.replace(' ', '-')).mkdir(parents=True)
      Image.fromarray(strip).save(tmp_path / method / prompt.replace(' ', '-') / 'turntable.png')
  real_path.sheet(tmp_path, tmp_path / 'sheet.png', prompts=('a cube', 'a mug'),
                  methods=('sds', 'vsd'))
  seen = np.asarray(Image.open(tmp_path / 'sheet.png'))
  assert seen.shape == (48, 40, 3)
  rows = seen[20:24], seen[44:]
  levels = [[set(row[:, column].ravel()) for column in (slice(20), slice(20, None))]
            for row in rows]
  assert levels == [[{40}, {80}], [{140}, {180}]]


def test_the_compilation_of_every_published_config_is_timed():
  folder = results.ROOT / 'jaxdreamer' / 'configs'
  of_models = {path.stem for part in ('_sd', '_mvdream') for path in folder.glob(f'*{part}.py')}
  assert {name for name in of_models if 'toybox' not in name} == set(compile.PUBLISHED)
  assert list(compile.stages_of('prolificdreamer_sd')) == ['field', 'geometry', 'texture']


def test_each_stage_is_compiled_alone_and_those_of_more_programs_as_a_run_does(monkeypatch):
  asked = []
  def child(name, stage, *, alone):
    asked.append((stage, alone))
    return {'programs': 2 if stage == 'field' else 1, 'trace': 1., 'compile': 2. if alone else 3.}
  monkeypatch.setattr(compile, 'child', child)
  rows = compile.rows_of('prolificdreamer_sd')
  assert [(row['stage'], row['first'], row['all']) for row in rows] == [
    ('field', 2., 3.), ('geometry', 2., 2.), ('texture', 2., 2.)]
  assert asked == [('field', True), ('field', False), ('geometry', True), ('texture', True)]


@pytest.mark.slow
def test_a_step_is_compiled_from_shapes():
  with full_size.models(tiny=True):
    config = full_size.config('dreamfusion_sd', tiny=True)
    found = compile.timed(config, alone=True)
  assert found['programs'] == 1 and min(found['trace'], found['compile']) > 0.
