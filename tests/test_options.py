"""Options live once, in the functions that take them: each can be reached from the command line, a
function of the user's own brings its section, and saved runs and old names are answered."""
import json
from functools import partial

import jax
import pytest
from refusals import refused

from jaxdreamer import build, names, option_rules, options, registry, sections, workdirs
from jaxdreamer.configs import base
from jaxdreamer.scenes import backgrounds

TABLES = {'scene': registry.SCENES, 'prior': registry.PRIORS, 'estimator': registry.ESTIMATORS,
          'render.backgrounds': registry.BACKGROUNDS}
# what a run gives a function beside its options
FACTS = {'prior': registry.FACTS, 'scene': ('noise',), 'render.backgrounds': ('text',)}
TODAY = options.flatten(base.OPTIONS)
FUNCTIONS = sorted(place for place in base.FUNCTIONS if place.rpartition('.')[0] in TABLES
                   and any(option.startswith(f'{place}.') for option in TODAY))
# values that some option of texts, or of rows of them, takes
WORDS = ('another', 'float32', 'learned', 'printed', 'exp', 'gauss', 'uniform', 'forward', 'normal',
         'hashgrid', 'neus', 'all')
ROWS = (('h',), ('constant', 'depth'), ((0, 64),))
OWN = '''
def sixth(*, scale: float = 3., levels: tuple = (1, 2)):
  """A sixth estimator.

  Args:
    scale: how much
      of it.
    levels: how many.
  """
'''


def near(value):
  """Values of the same kind near this one."""
  if isinstance(value, bool):
    return (not value,)
  if isinstance(value, str):
    return WORDS
  if isinstance(value, tuple):
    return (*((*value[:-1], last) for last in near(value[-1])), *ROWS, value * 2) if value else ROWS
  return value + 1, value - 1, type(value)(.5 * value + .125)


def another(option):
  """A value that an option takes and that is not its default."""
  value = TODAY[option]
  rule = option_rules.rule_of(option, value)
  return next(other for other in near(value) if other != value and rule.fits(other))


def changes(given):
  """The arguments that give options."""
  return [f'--config.{option}={value}' for option, value in given.items()]


@pytest.mark.parametrize('section', sorted({option.split('.')[0] for option in TODAY}))
def test_every_option_can_be_given_on_the_command_line(section, parse):
  given = {option: another(option) for option in TODAY if option.split('.')[0] == section}
  config = options.flatten(parse('--config=configs/base.py', *changes(given)).to_dict())
  assert config == TODAY | given
  assert all(type(config[option]) is type(TODAY[option]) for option in given)


@pytest.mark.parametrize('place', FUNCTIONS)
def test_every_option_of_a_function_reaches_it_from_the_command_line(place, parse, monkeypatch):
  section, _, name = place.rpartition('.')
  given = {option: another(option) for option in TODAY if option.startswith(f'{place}.')}
  want = {option.split('.')[-1]: value for option, value in given.items()}
  assert set(want) == set(sections.defaults(TABLES[section][name])) - {*FACTS.get(section, ())}
  choose = 'render.background' if section == 'render.backgrounds' else f'{section}.name'
  generator = ['--config.scene.name=conv3d'] if name == 'hypernet' else []
  config = parse('--config=configs/base.py', f'--config.{choose}={name}', *generator,
                 *changes(given))
  got = {}
  monkeypatch.setitem(TABLES[section], name, lambda **kw: got.update(kw) or backgrounds.random())
  if section == 'render.backgrounds':
    build.make_background(config)
  else:
    registry.pick(TABLES[section], config[section], section)()
  assert {option: value for option, value in got.items() if option in want} == want
  assert set(got) - set(want) <= {*FACTS.get(section, ())}



def test_a_function_of_ones_own_brings_its_section(parse, refuse, tmp_path):
  (tmp_path / 'mine_of_options.py').write_text(OWN)
  named = '--config.estimator.name=mine_of_options:sixth'
  config = parse('--config=configs/toybox.py', named, '--config.estimator.sixth.scale=5',
                 '--config.estimator.sixth.levels=4,5,6')
  assert config.estimator.sixth.to_dict() == {'scale': 5., 'levels': (4, 5, 6)}
  assert registry.pick({}, config.estimator, 'estimator').keywords == {'scale': 5.,
                                                                    'levels': (4, 5, 6)}
  said = refuse('--config=configs/toybox.py', named, '--config.estimator.sixth.scal=5')
  assert '--config.estimator.sixth.scal;' in said and '--config.estimator.sixth.scale' in said
  assert 'a number' in refuse('--config=configs/toybox.py', named,
                              '--config.estimator.sixth.scale=much')
  assert 'config.estimator.name' in refuse('--config=configs/toybox.py',
                                           '--config.estimator.name=mine_of_options:seventh')


def test_a_config_file_writes_options_of_ones_own_function_as_it_writes_all(parse, refuse,
                                                                            tmp_path):
  (tmp_path / 'mine_of_options.py').write_text(OWN)
  lines = ('from jaxdreamer.configs import toybox\n\n\ndef get_config():\n  config = '
           "toybox.get_config()\n  config.estimator.name = 'mine_of_options:sixth'\n  "
           "config.estimator.sixth = {'%s': 7.}\n  return config\n")
  (tmp_path / 'mine.py').write_text(lines % 'scale')
  assert parse('--config=mine.py').estimator.sixth.to_dict() == {'scale': 7., 'levels': (1, 2)}
  assert parse('--config=mine.py', '--config.estimator.sixth.scale=8').estimator.sixth.scale == 8.
  (tmp_path / 'mine.py').write_text(lines % 'scael')
  said = refuse('--config=mine.py')
  assert 'config.estimator.sixth.scael; nearest: config.estimator.sixth.scale' in said


def test_help_says_what_the_docstring_of_its_function_says_of_an_option(parse, capsys, tmp_path):
  (tmp_path / 'mine_of_options.py').write_text(OWN)
  with pytest.raises(SystemExit):
    parse('--help', '--config=configs/toybox.py', '--config.estimator.name=mine_of_options:sixth')
  rows = {line.split('=')[0].strip(): line for line in capsys.readouterr().out.splitlines()
          if line.startswith('  --config.')}
  assert rows['--config.estimator.sixth.scale'].endswith('  a number; how much of it.')
  for place, function in base.FUNCTIONS.items():
    for option, said in sections.notes(function).items():
      assert rows[f'--config.{place}.{option}'].endswith(said)


def saved(workdir, **changes):
  """A workdir that holds the options of the defaults, changed: None leaves one out."""
  flat = options.flatten(base.get_config().to_dict()) | changes
  nested = {}
  for name, value in flat.items():
    *path, last = name.split('.')
    section = nested
    for part in path:
      section = section.setdefault(part, {})
    if value is not None:
      section[last] = value
  workdirs.claim(workdir, nested)
  return workdir


def test_a_run_saved_without_some_options_is_todays_defaults_updated_by_its_own(tmp_path):
  config = options.restored(saved(tmp_path, **{
    'steps': 7, 'optim.accumulate': None, 'cameras.angular': None, 'render.light.jitter': None,
    'scene.voxels.levels': (4, 6), 'estimator.name': 'mine:gone', 'estimator.gone.much': 3.}))
  today = options.flatten(base.get_config().to_dict())
  want = today | {'steps': 7, 'scene.voxels.levels': (4, 6), 'estimator.name': 'mine:gone',
                  'estimator.gone.much': 3.}
  assert options.flatten(config.to_dict()) == want


def test_a_run_goes_on_where_its_options_and_todays_defaults_are_the_config(tmp_path):
  saved(tmp_path, seed=3)
  (tmp_path / 'checkpoints' / '3').mkdir()
  config = base.get_config()
  config.seed = 3
  (tmp_path / 'config.json').write_text(json.dumps({'seed': 3}))
  claim = partial(workdirs.claim, tmp_path, config.to_dict(), read=options.saved,
                  defaults=base.OPTIONS)
  claim()
  (tmp_path / 'config.json').write_text(json.dumps({'seed': 3, 'cameras': {'angular': .5}}))
  with pytest.raises(ValueError, match='cameras.angular is 0.5 there, 0.0 here'):
    claim()
  (tmp_path / 'config.json').write_text(json.dumps({'negative': 'dull'}))
  with pytest.raises(ValueError, match='config.negative is called config.negative_prompt now'):
    claim()


@pytest.mark.parametrize('option, value, says', [
  ('sampling.viewz', 3, 'config.sampling.viewz; nearest: config.sampling.views'),
  ('negative', 'dull', 'config.negative is called config.negative_prompt now'),
  ('estimator.csd.negative', (1.,), 'config.estimator.csd.omega2 now'),
  ('render.background', 'learnt', "'learnt' is called 'learned' now")])
def test_a_saved_option_that_is_no_more_is_answered_by_name(option, value, says, tmp_path):
  with refused('config.json') as error:
    options.restored(saved(tmp_path, **{option: value}))
  assert says in str(error.value) and str(tmp_path) in str(error.value)


OLD = {'negative=dull': 'config.negative_prompt',
       'estimator.csd.negative=.5': 'config.estimator.csd.omega2',
       'estimator.asd.negatives=.5': 'config.perp_neg', 'estimator.sds.weight=uniform':
       'config.sampling.weight', 'render.background=learnt': "'learned'",
       'estimator.ssd.mu=learnt': "'learned'",
       "estimator.ssd.phi=('constant','neighbours')": "'neighbors'"}


@pytest.mark.parametrize('given', OLD)
def test_an_old_name_is_answered_with_the_new_one(given, refuse, tmp_path):
  option, _, value = given.partition('=')
  assert f'{OLD[given]}' in refuse('--config=configs/toybox.py', f'--config.{given}')
  value = value if value[0] in '.(' else repr(value)
  (tmp_path / 'mine.py').write_text(
    f'from jaxdreamer.configs import toybox\n\n\ndef get_config():\n  config = '
    f'toybox.get_config()\n  config.{option} = {value}\n  return config\n')
  assert f'{OLD[given]}' in refuse('--config=mine.py')


def test_what_is_called_by_an_old_name_is_there_by_the_new_one():
  known = options.flatten(base.get_config().to_dict())
  for old, new in names.OLD_NAMES.items():
    option, _, value = old.partition('=')
    assert (option in known and known[option] != value) if value else new in known
    assert value or option not in known


@pytest.mark.parametrize('platform, changes, saved, expected', [
  ('cpu', {}, (), 1), ('gpu', {}, (), 10), ('tpu', {'steps': 10000}, (), 10),
  ('cpu', {'steps_per_call': 4}, (), 4), ('gpu', {'steps_per_call': 4}, (), 4),
  ('gpu', {'steps': 198, 'log_every': 36, 'preview_every': 0, 'checkpoint_every': 0}, (), 9),
  ('gpu', {'log_every': 7}, (), 1), ('gpu', {'checkpoint_every': 15}, (), 5),
  ('gpu', {'preview_every': 4}, (), 2),
  ('gpu', {'render.stages': ((0, 32), (25, 64))}, (), 5),
  # it was stopped on a CPU, or between two calls of another length
  ('gpu', {}, (100, 120), 10), ('gpu', {}, (100, 125), 5), ('gpu', {}, (33,), 1),
  ('gpu', {'corpus.path': 'toybox'}, (), 1), ('gpu', {'scene.name': 'restoration'}, (), 1)])
def test_a_call_has_as_many_steps_as_the_platform_likes_and_the_run_divides_by(
    platform, changes, saved, expected):
  config = base.get_config()
  config.update_from_flattened_dict(changes)
  assert options.per_call(config, platform=platform, saved=saved) == expected
  assert config.steps % expected == 0


def test_the_length_of_a_call_is_chosen_when_a_run_is_built(monkeypatch):
  config = base.get_config()
  config.mesh.data = 1
  asked = []
  monkeypatch.setattr(options, 'per_call', lambda config, *, platform, saved: asked.append(
    (platform, saved)) or 5)
  training = build.training(config, build.make_mesh(config), saved=[20])
  assert training.steps_per_call == 5 and asked == [('cpu', [20])] and config.steps_per_call == 0
  state = jax.eval_shape(training.init, jax.random.key(0))
  lowered = jax.make_jaxpr(training.stages[0][1])(state, training.prior, training.text(0))
  assert 'length=5' in str(lowered)
