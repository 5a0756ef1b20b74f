"""What the command line answers to a slip, and to --help."""
import importlib
import os
import pathlib
import re
import types

import jax
import pytest
from absl import flags

from jaxdreamer import build, cli, cli_help, config_files, option_rules, options, schedules, seeds
from jaxdreamer.configs import base

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = str(ROOT / 'configs' / 'toybox.py')
TOYBOX = '--config=configs/toybox.py'


@pytest.mark.parametrize(('option', 'nearest'), [
  ('sampling.viewz', 'sampling.views'), ('estimator.sds.guidence', 'estimator.sds.guidance'),
  ('promt', 'prompt')])
def test_an_unknown_option_is_answered_with_the_nearest_ones(option, nearest):
  for file in (CONFIG, f'{CONFIG}:empirical'):
    said = cli_help.unknown_options(['train', f'--config={file}', f'--config.{option}=3'])
    assert f'--config.{option}' in said and f'--config.{nearest}' in said and '\n' not in said


def test_known_options_are_not_complained_about():
  assert cli_help.unknown_options(['train', f'--config={CONFIG}', '--config.prompt=a red cube',
                              '--config.steps=3']) == ''


def test_a_warning_is_one_line_and_shows_no_source():
  assert cli.warning_line(UserWarning('so\n it is'), UserWarning, __file__, 3) == (
    'warning: so it is\n')


SLIPS = {
  'cameras.elevation=15': 'two numbers, LOW,HIGH, from -90 to 90',
  'cameras.fov=40': 'two numbers',
  'cameras.azimuth=90,-90': 'two numbers, LOW,HIGH',
  'cameras.distance=0,1': 'two numbers',
  'render.samples=0': '1 or more',
  'render.stages=64': 'FIRST STEP, PIXELS',
  'render.shaded=2': 'a schedule.* from 0 to 1',
  'optim.groups=0.1': 'REGEX',
  'optim.b1=1': 'below 1',
  'eval.size=0': '1 or more',
  'eval.mesh_resolution=4': 'from 8 to 512',
  'eval.faces=20': '0 or a whole number, 100 or more',
  'eval.texture=10': '0 or a whole number, from 64 to 4096',
  'estimator.sds.guidance=abc': 'a schedule',
  'estimator.sds.guidance=1,2': 'a schedule',
  'estimator.sds.guidance=': 'a schedule',
  'sampling.weight=sigma': 'sigma2',
  'estimator.vsd.rank=-1': '1 or more',
  'sampling.t_max=1.5': 'from 0 to 1',
  'sampling.t_min=.99': 'config.sampling.t_max',
  'sampling.views=2.5': 'a whole number, 1 or more',
  'sampling.antithetic=maybe': 'True or False',
  'scene.voxels.levels=0': '2 or more',
  'scene.voxels.levels=10.,19': 'whole numbers',
  'regularizers.sparsity=-1': '0 or more',
  'steps=abc': 'a whole number, 1 or more',
  'max_minutes=nan': '0 or more',
  'seed=-1': '18446744073709551615',
  'seed=18446744073709551616': '18446744073709551615',
  'sampling=4': 'section.*config.sampling.views',
}


@pytest.mark.parametrize('slip', SLIPS)
def test_a_value_that_an_option_does_not_take_is_answered_with_its_name_and_what_it_takes(
    refuse, slip):
  said = refuse(TOYBOX, f'--config.{slip}')
  name, _, _ = slip.partition('=')
  assert f'config.{name}' in said
  assert re.search(SLIPS[slip], said), said


@pytest.mark.parametrize('name', sorted(path.stem for path
                                        in config_files.SHIPPED.glob('[a-z]*.py')))
def test_every_shipped_config_is_one_that_the_checks_let_through(name):
  config = importlib.import_module(f'jaxdreamer.configs.{name}').get_config()
  options.check(config)
  assert options.outliving(config) == ''


def test_no_option_takes_a_value_of_another_kind():
  for name, default in options.flatten(base.get_config().to_dict()).items():
    rule = option_rules.rule_of(name, default)
    assert rule.fits(default), name
    for other in (object(), None, float('nan'), (object(),), {}):
      assert not rule.fits(other), (name, other)
    assert not rule.fits(3 if isinstance(default, str) else 'x'), name
    assert not rule.fits(True) or isinstance(default, bool), name


def test_an_option_that_no_config_has_is_refused_where_a_config_file_writes_it():
  config = base.get_config()
  config.estimator.nmae = 'vsd'
  with pytest.raises(ValueError, match='config.estimator.nmae.*config.estimator.name'):
    options.check(config)
  with pytest.raises((AttributeError, KeyError)):
    config.estimator.sds.gidance = 3.


@pytest.mark.parametrize('arguments, says', [
  (['--prompt=a red cube'], 'there is no --prompt; nearest: --config.prompt'),
  ([TOYBOX, '--prompt=a red cube'], 'there is no --prompt; nearest: --config.prompt'),
  ([TOYBOX, '--views=4'], '--config.sampling.views'),
  ([TOYBOX, '--workdr=x'], '--workdir'),
  ([TOYBOX, '--config.promt=x'], '--config.prompt'),
  (['--config.prompt=x'], 'put --config=configs/toybox.py before it'),
  (['--config=configs/toybx.py'], 'there is no config file configs/toybx.py; nearest: '
   'configs/toybox.py'),
  (['--config=configs/toybox_amortised.py:sdss'], 'sdss'),
  ([TOYBOX, 'red', 'cube'], "unexpected argument 'red'"),
  ([TOYBOX, '--config.prompt=a red c\udcffube'], 'no UTF-8'),
  ([TOYBOX, '--workdir=runs/\udcff'], 'no UTF-8'),
])
def test_what_there_is_not_is_answered_with_the_nearest_that_there_is(refuse, arguments, says):
  assert says in refuse(*arguments)


def test_a_config_file_that_fails_is_named_with_the_line(refuse, tmp_path):
  (tmp_path / 'mine.py').write_text('import nothing_of_this_name\n')
  assert 'mine.py line 1: ModuleNotFoundError' in refuse('--config=mine.py')
  (tmp_path / 'mine.py').write_text('def get_config():\n  return 3\n')
  assert 'takes a ConfigDict' in refuse('--config=mine.py')


def test_help_tells_how_a_run_is_configured_and_the_options_of_the_config(parse, capsys):
  with pytest.raises(SystemExit) as left:
    parse('--help', '--config=configs/asd.py')
  said = capsys.readouterr().out
  assert left.value.code == 0 and said.count(' --config=configs/') == 3
  assert ("--config.estimator.name='asd'" in said and '--config.sampling.t_max=(0.98, 0.5, '
          '150)' in said)
  for name in options.flatten(base.get_config().to_dict()):
    assert f'--config.{name}=' in said


def test_options_may_stand_before_the_config_they_change(parse):
  assert parse('--config.steps=7', '--config', 'configs/toybox.py').steps == 7


def test_shipped_configs_are_found_from_any_folder_and_a_file_there_comes_first(parse, tmp_path):
  assert parse('--config=configs/csd.py').estimator.name == 'csd'
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'csd.py').write_text('from jaxdreamer.configs import vsd\nget_config = '
                                               'vsd.get_config\n')
  assert parse('--config=configs/csd.py').estimator.name == 'vsd'


def test_a_config_in_another_folder_may_import_its_neighbors_and_the_shipped_ones(
    parse, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'far').mkdir()
  (tmp_path / 'far' / 'a_neighbor_of_it.py').write_text('STEPS = 17\n')
  (tmp_path / 'far' / 'mine.py').write_text('from configs import toybox\nfrom a_neighbor_of_it '
                                            'import STEPS\n\n\n'
                                            'def get_config():\n  config = toybox.get_config()\n  '
                                            'config.steps = STEPS\n'
                                            '  return config\n')
  assert parse('--config=~/far/mine.py').steps == 17


FOLLOWING = {
  'asd.py': ['sampling.t_min', 'sampling.t_max'],
  'scaledreamer_sd.py': ['sampling.t_min', 'sampling.t_max'],
  'scaledreamer_mvdream.py': ['sampling.t_min', 'sampling.t_max'],
  'scaledreamer_amortised.py:df415': ['sampling.t_min', 'sampling.t_max', 'regularizers.opaque'],
  'scaledreamer_amortised.py:dl17k': ['sampling.t_min', 'sampling.t_max', 'regularizers.opaque'],
  'toybox_amortised.py': ["optim.groups 'scene/field/.*'",
                          "optim.groups 'scene/field/transformer/upsample/.*'"]}


@pytest.mark.parametrize('file', FOLLOWING)
def test_schedules_that_last_as_long_as_the_run_follow_its_steps(parse, file):
  published = options.schedules(parse(f'--config=configs/{file}').to_dict())
  for steps in (30, 1, 60):
    found = options.schedules(parse(f'--config=configs/{file}',
                                    f'--config.steps={steps}').to_dict())
    for name in FOLLOWING[file]:
      assert found[name][:2] == published[name][:2] and sum(found[name][2:]) == steps
      assert schedules.at(found[name], steps) == pytest.approx(found[name][1])


def test_a_schedule_that_is_given_does_not_follow_and_one_that_outlives_its_run_is_told(parse):
  config = parse('--config=configs/asd.py', '--config.steps=30',
                 '--config.sampling.t_max=.98,.5,200')
  assert config.sampling.t_max == (.98, .5, 200) and config.sampling.t_min == (.5, .02, 30)
  said = options.outliving(config)
  assert 'config.steps=30' in said and 'config.sampling.t_max' in said and '0.908' in said
  assert 't_min' not in said and '\n' not in said
  staged = parse(TOYBOX, '--config.render.stages=((0,32),(500,64))')
  assert 'config.render.stages' in options.outliving(staged)
  unused = parse(TOYBOX, '--config.estimator.vsd.guidance=9,3,1000')
  assert options.outliving(unused) == ''


def test_every_64_bit_seed_is_a_stream_of_its_own():
  data = lambda seed: tuple(map(int, jax.random.key_data(seeds.key(seed))))
  for seed in (0, 1, 2 ** 31, 2 ** 32 - 1):
    assert data(seed) == tuple(map(int, jax.random.key_data(jax.random.key(seed))))
  many = [0, 1, 2 ** 32, 2 ** 32 + 1, 2 ** 33, 2 ** 40, 2 ** 63, 2 ** 63 + 1, 2 ** 64 - 2,
          2 ** 64 - 1]
  assert len(set(map(data, many))) == len(many)


def test_paths_begin_at_home_where_they_say_so(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  config = base.get_config()
  names = ['prior.path', 'corpus.path', 'corpus.store', 'prior.mvdream.tokenizer',
           'prior.sdxl.tokenizer', 'prior.sdxl.tokenizer_2',
           'prior.stable_diffusion.tokenizer', 'estimator.ssd.depth', 'estimator.ssd.normals']
  config.update_from_flattened_dict(dict.fromkeys(names, '~/weights'))
  told = options.flatten(options.expanded(config).to_dict())
  assert {told[name]
          for name in names} == {str(tmp_path / 'weights')} and config.prior.path == '~/weights'
  config = base.get_config()
  config.prior.path = '~/none.safetensors'
  with pytest.raises(FileNotFoundError, match=f'{tmp_path}/none.safetensors'):
    build.training(config, build.make_mesh(config))


@pytest.mark.parametrize('command', ['export', 'evaluate', 'generate', 'variance'])
def test_commands_find_a_workdir_at_home(monkeypatch, tmp_path, command):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'a-run').mkdir()
  monkeypatch.setattr(cli, 'compile_cache', lambda: '')
  given = types.SimpleNamespace(workdir='~/a-run', out='', formats=[], prompt='x', prompts='',
                                config=None, clip='', generator='', lora='', faces=100,
                                texture=64)
  monkeypatch.setattr(flags, 'FLAGS', given)
  with pytest.raises(ValueError, match=f'{tmp_path}/a-run holds no run'):
    importlib.import_module(f'jaxdreamer.{command}').main()


def test_memory_that_is_not_there_is_one_line_with_what_makes_it_fit(parse):
  parse(TOYBOX, '--config.sampling.views=16')
  error = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 12345 '
                                     'bytes.\nBufferAssignment:\n1\n2')
  for failed in (error, MemoryError('std::bad_alloc')):
    said = cli.explanation(failed)
    assert said.startswith('out of memory') and 'config.render.chunk' in said
    assert 'config.sampling.views below 16' in said
    assert 'BufferAssignment' not in said
  assert cli.explanation(RuntimeError('a bug')) == ''


def test_a_picture_takes_at_least_what_its_rays_hold_at_once():
  config = base.get_config()
  config.eval.update({'size': 1000, 'samples': 64})
  whole = options.picture_bytes(config)
  assert 16 * 64 * 10 ** 6 < whole < 17 * 64 * 10 ** 6
  config.eval.chunk = 1000
  assert options.picture_bytes(config) < .06 * whole


def test_a_full_disk_is_told_with_the_folder(parse):
  parse(TOYBOX, '--workdir=runs/x')
  assert 'runs/x: its disk is full' in cli.explanation(OSError(28, os.strerror(28)))
