"""The commands as a user gives them, on a scene too small to be pretty."""
import json
import pathlib
import subprocess
import sys

import pytest
import trimesh

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = {'prompt': 'a red mug', 'steps': 4, 'sampling.views': 1, 'mesh.data': 1,
         'render.samples': 8, 'render.fine': 0,
         'preview_every': 2, 'eval.size': 16, 'eval.samples': 16, 'eval.mesh_resolution': 16,
         'eval.faces': 500, 'eval.texture': 128}
SMALL = ['--config=configs/toybox.py',
         *(f'--config.{name}={value}' for name, value in SMALL.items())]


def command(module, *args, status=0):
  done = subprocess.run([sys.executable, '-m', f'jaxdreamer.{module}', *map(str, args)], cwd=ROOT,
                        capture_output=True,
                        text=True, timeout=300)
  assert done.returncode == status, done.stderr[-2000:]
  return done


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  return folder, command('train', *SMALL, f'--workdir={folder}').stdout


@pytest.mark.slow
def test_train_writes_every_output_and_scores_it(trained):
  folder, said = trained
  assert said.splitlines()[-1] == f'{folder}/report.html'
  made = {path.name for path in folder.iterdir()}
  assert made >= {'turntable.mp4', 'turntable.png', 'mesh.glb', 'mesh.obj', 'mesh.ply',
                  'scores.json', 'report.html',
                  'metrics.jsonl', 'previews'}
  made = trimesh.load(folder / 'mesh.glb', force='mesh')
  assert 20 < len(made.faces) <= 520
  assert made.visual.material.baseColorTexture.size == (128, 128)
  scores = json.loads((folder / 'scores.json').read_text())['scores']
  assert 0. < scores['silhouette_iou'] < 1.


@pytest.mark.slow
def test_export_and_evaluate_read_a_run(trained, tmp_path):
  folder, _ = trained
  command('export', f'--workdir={folder}', f'--out={tmp_path}', '--resolution=24',
          '--formats=ply', '--points',
          '--num_points=50')
  assert {path.name for path in tmp_path.iterdir()} == {'mesh.ply', 'mesh.json', 'mesh.png',
                                                        'points.ply'}
  command('export', f'--workdir={folder}', f'--out={tmp_path}', '--resolution=24', '--faces=100',
          '--texture=0', '--formats=glb,obj')
  made, = trimesh.load_scene(tmp_path / 'mesh.glb').geometry.values()
  assert 20 < len(made.faces) <= 110 and made.visual.vertex_attributes['color'].shape[1] == 3
  assert not (tmp_path / 'mesh.mtl').exists()
  for slip, takes in (('--faces=7', '100 or more'), ('--texture=9000', 'from 64 to 4096')):
    said = command('export', f'--workdir={folder}', slip, status=2).stderr
    assert said == f'jaxdreamer: {slip}: takes 0 or a whole number, {takes}\n'
  before = json.loads((folder / 'scores.json').read_text())
  assert 'silhouette_iou' in command('evaluate', f'--workdir={folder}', '--resolution=16').stdout
  assert json.loads((folder / 'scores.json').read_text()) == before


@pytest.mark.slow
def test_doctor_names_what_is_installed_and_what_a_step_takes():
  said = command('doctor', *SMALL).stdout
  for row in ('python', 'jax', 'device 0', 'weights prior.safetensors', 'weights toybox_sd/unet',
              'compile cache', 'state', 'prior', 'step', 'this process'):
    assert any(line.startswith(row) for line in said.splitlines()), (row, said)


@pytest.mark.slow
def test_variance_compares_methods_at_fresh_scenes(tmp_path):
  said = command('variance', *SMALL, '--at=0', '--cameras=3', '--repeats=6', '--rounds=6',
                 '--warm=1', '--methods=sds; ssd',
                 '--prompts=a red mug; a blue torus', f'--out={tmp_path}').stdout
  assert said.splitlines()[
      -1] == f'{tmp_path}/variance.json' and 'a blue torus, step 0: ssd; about 0.0 min left' in said
  seen = json.loads((tmp_path / 'variance.json').read_text())
  reference, other = seen['all']
  assert seen['prompts'] == ['a red mug', 'a blue torus'] and list(seen)[:2] == [
      'ssd_parameters_over_sds', 'best']
  assert [state['step'] for state in seen['states']] == [0] and other['method'] == 'ssd' and other[
      'over'] == 'sds'
  assert reference['step']['mean'] == reference['parameter']['mean'] == 1. and other['parameter'][
      'mean'] != 1.
  assert other['cost']['lower'] < other['cost']['mean'] < other['cost']['upper']
  worst = seen['ssd_parameters_over_sds']
  assert worst == {**other['parameter'], 'step': 0, 'over': 'sds',
                   'second_moment': other['second_moment']}
  assert seen['best']['sds']['of'] == 2 and seen['best']['sds']['lower'] <= seen['best']['sds'][
      'upper']
  assert sum(other[part]['mean'] for part in ('camera', 'render', 'time',
                                              'noise')) == pytest.approx(1.)
  assert (tmp_path / 'variance.png').stat().st_size > 10_000


@pytest.mark.slow
def test_the_playground_follows_a_method_to_the_truth(tmp_path):
  small = [option.replace('toybox.py', 'image2d.py') for option in SMALL if 'steps' not in option]
  command('playground', *small, '--config.steps=6', '--every=3', '--repeats=3', '--methods=sds',
          f'--out={tmp_path}')
  rows = json.loads((tmp_path / 'playground.json').read_text())['runs']['sds']
  assert [row['step'] for row in rows] == [0, 3, 6] and rows[-1]['distance'] < rows[0]['distance']
  assert {path.name for path in tmp_path.iterdir()} == {'playground.json', 'curves.png',
                                                        'pictures.png'}


@pytest.mark.slow
@pytest.mark.parametrize('args, says', [
  (['--config=configs/toybox.py', '--config.prompt=a red zebra'], 'zebra'),
  (['--config=configs/toybox.py', '--config.prior.path=none.safetensors'], 'none.safetensors'),
  (['--config=configs/toybox.py', '--config.mesh.data=3', '--config.sampling.views=4'], 'config.'),
])
def test_bad_input_is_answered_in_one_line(tmp_path, args, says):
  done = subprocess.run([sys.executable, '-m', 'jaxdreamer.train', *args,
                         f'--workdir={tmp_path / "run"}'], cwd=ROOT,
                        capture_output=True, text=True, timeout=120)
  assert done.returncode in (1, 2) and says in done.stderr
  assert len([line for line in done.stderr.splitlines()
              if not line.startswith(('I', 'W'))]) == 1, done.stderr
