"""More than three hundred broken or hostile models given to convert: each ends in one line, soon,
and nothing is written at its folder or beside it. A change that does no harm gives a whole model.

Pickles are looked at as bytes here; those that pass are read by torch, all in one process as
convert starts it, where torch is installed."""
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import zipfile

import numpy as np
import published
import pytest
import safetensors.numpy

from jaxdreamer import convert
from jaxdreamer.weights import pickles, torch_worker
from jaxdreamer.weights.diffusers_folder import open_model

SECONDS, LETTERS = 20., 5_000            # of one attempt, of what is said
TEXT = 'text_encoder/model.safetensors'


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A model whose text encoder is the first part that is read."""
  folder = tmp_path_factory.mktemp('source') / 'model'
  published.write_model(folder)
  entries = published.INDEX
  published.write_json(folder / 'model_index.json', {
    key: entries[key] for key in sorted(entries, key=lambda key: 'text' not in key)})
  return folder


@pytest.fixture
def broken(source, tmp_path):
  """A copy to break."""
  return shutil.copytree(source, tmp_path / 'model')


def attempt(broken, **options):
  """What convert says of it, '' where it converts it; at most that, or the whole, is there."""
  began, home = time.monotonic(), broken.parent
  said = ''
  try:
    convert.convert(str(broken), home / 'to', say=lambda line: None, **options)
  except (ValueError, OSError) as error:
    said = str(error)
    assert len(said.splitlines()) == 1 and len(said) < LETTERS, said
  assert time.monotonic() - began < SECONDS
  assert {path.name for path in home.iterdir()} == {broken.name} | ({'to'} if not said else set())
  if not said:
    open_model(home / 'to')
    shutil.rmtree(home / 'to')
  return said


def cut_and_flipped(raw, *, cuts, flips, seed=0):
  """Versions of some bytes: cut short, with one bit flipped."""
  noise = np.random.RandomState(seed)
  yield from (raw[:n] for n in noise.randint(0, len(raw), cuts))
  for bit in noise.randint(0, 8 * len(raw), flips):
    other = bytearray(raw)
    other[bit // 8] ^= 1 << bit % 8
    yield bytes(other)


@pytest.mark.slow
@pytest.mark.parametrize('name, flips', [
  ('model_index.json', 9), ('text_encoder/config.json', 9), ('scheduler/scheduler_config.json', 5),
  ('tokenizer/vocab.json', 2)])            # a harmless one is converted, which takes time
def test_json_that_is_cut_or_flipped_is_refused_or_harmless(broken, name, flips):
  raw, refused = (broken / name).read_bytes(), 0
  for content in cut_and_flipped(raw, cuts=12, flips=flips):
    (broken / name).write_bytes(content)
    refused += bool(attempt(broken))
  assert refused >= 12


@pytest.mark.slow
def test_weights_that_are_cut_or_flipped_in_their_header_are_refused_or_harmless(broken):
  raw, refused = (broken / TEXT).read_bytes(), 0
  header = 8 + int.from_bytes(raw[:8], 'little')
  for content in cut_and_flipped(raw[:header], cuts=0, flips=24):
    (broken / TEXT).write_bytes(content + raw[header:])
    refused += bool(attempt(broken))
  for content in cut_and_flipped(raw, cuts=24, flips=0):
    (broken / TEXT).write_bytes(content)
    assert attempt(broken)
  assert refused > 12


FIELDS = {'vocab_size': [0, -1, '3', None, 2 ** 40, 1.5, []], 'hidden_size': [0, 7, 2 ** 62, {}],
          'num_hidden_layers': [0, 9, 10 ** 9, True, 'two'], 'num_attention_heads': [0, 5, 10 ** 9],
          'max_position_embeddings': [0, 10 ** 12, [77]], 'hidden_act': ['relu', 7, None]}
FORWARD = {'beta_start': [0, -1, 'x', [1.], 2.], 'beta_schedule': ['cosine', 4, ['linear'], {}],
           'num_train_timesteps': [0, -5, 1.5, '9'], 'prediction_type': ['flow', 3, [], {}],
           'trained_betas': [[.1], 'x', 3, [[]] * 1000]}


@pytest.mark.slow
def test_configs_of_another_model_or_of_none_are_refused(broken):
  for name, fields, harmless in (('text_encoder/config.json', FIELDS, ('vocab_size', None)),
                                 ('scheduler/scheduler_config.json', FORWARD, ())):
    told = json.loads((broken / name).read_text())
    for field, values in fields.items():
      for value in values:
        (broken / name).write_text(json.dumps(told | {field: value}))
        assert attempt(broken) or (field, value) == harmless, (field, value)
    (broken / name).write_text(json.dumps(told))


@pytest.mark.slow
def test_tensors_that_are_not_the_models_are_refused(broken):
  table = safetensors.numpy.load_file(broken / TEXT)
  key = 'text_model.encoder.layers.1.mlp.fc1.weight'
  for change in ({key: table[key] * np.nan}, {key: table[key][1:]}, {'other': table[key]},
                 {key: table[key].astype(np.int32)}, {key: table[key].astype(np.float64) * 1e300}):
    safetensors.numpy.save_file(table | change, broken / TEXT)
    assert 'text_encoder/model.safetensors' in attempt(broken)
  safetensors.numpy.save_file({k: 1e6 * x for k, x in table.items()}, broken / TEXT)
  assert 'too large for float16' in attempt(broken, dtype='float16')


def test_files_that_are_missing_or_another_kind_of_file_are_refused(broken):
  for file in [path.relative_to(broken) for path in broken.rglob('*')]:
    kept = broken.parent.parent / 'kept'
    os.rename(broken / file, kept)
    optional = file.name in ('special_tokens_map.json', 'tokenizer_config.json')
    if optional:
      os.rename(kept, broken / file)
      continue
    assert attempt(broken), file
    (broken / file).symlink_to('nowhere')
    assert attempt(broken), file
    (broken / file).unlink()
    os.mkfifo(broken / file)
    assert attempt(broken), file
    (broken / file).unlink()
    os.rename(kept, broken / file)


@pytest.mark.slow
def test_loras_that_are_cut_or_flipped_are_refused_or_harmless(broken, tmp_path_factory):
  lora = tmp_path_factory.mktemp('lora') / 'x.safetensors'
  layer = 'lora_te_text_model_encoder_layers_0_mlp_fc1'
  safetensors.numpy.save_file({f'{layer}.lora_down.weight': np.ones((2, 32), np.float32),
                               f'{layer}.lora_up.weight': np.ones((64, 2), np.float32)}, lora)
  raw, refused = lora.read_bytes(), 0
  header = 8 + int.from_bytes(raw[:8], 'little')
  for content in cut_and_flipped(raw, cuts=15, flips=0):
    lora.write_bytes(content)
    assert attempt(broken, lora=str(lora))
  for content in cut_and_flipped(raw[:header], cuts=0, flips=12):
    lora.write_bytes(content + raw[header:])
    refused += bool(attempt(broken, lora=str(lora)))
  assert refused > 6


# pickles

def archive(entries, *, compression=zipfile.ZIP_STORED):
  """The bytes of a zip of {name: bytes}."""
  out = io.BytesIO()
  with zipfile.ZipFile(out, 'w', compression) as made:
    for name, content in entries.items():
      made.writestr(name, content)
  return out.getvalue()


NO_CHECKPOINTS = {
    'nothing': b'', 'text': b'Entry not found, or so',
    'a page': b'<!doctype html><title>no</title>', 'zeros': bytes(4096),
    'a pickle of protocol 4': pickle.dumps({'a': 1}, 4),
    'safetensors': safetensors.numpy.save({'a': np.ones(3)}), 'GGUF': b'GGUF' + bytes(99),
    'gzip': b'\x1f\x8b' + bytes(99), 'an empty zip': archive({}),
    'another zip': archive({'word/document.xml': b'<a/>'}),
    'a packed zip': archive({'x/data.pkl': bytes(10 ** 6)}, compression=zipfile.ZIP_DEFLATED),
    'half a zip': archive({'x/data.pkl': bytes(999)})[:500],
    'git-lfs': b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3438167540\n'}


@pytest.mark.parametrize('kind', NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_refused_before_torch_starts(tmp_path, kind, monkeypatch):
  monkeypatch.setattr(torch_worker, 'run', lambda *_, **__: pytest.fail('torch was asked'))
  (tmp_path / 'x.ckpt').write_bytes(NO_CHECKPOINTS[kind])
  assert 'x.ckpt' in attempt(tmp_path / 'x.ckpt')


def hostile(module, name, argument):
  """A pickle of protocol 2 that calls module.name(argument)."""
  text = argument.encode()
  return (b'\x80\x02c' + f'{module}\n{name}\n'.encode() + b'X' + len(text).to_bytes(4, 'little')
          + text + b'\x85R.')


CALLS = [('os', 'system'), ('posix', 'system'), ('builtins', 'eval'), ('builtins', 'exec'),
         ('__builtin__', 'eval'), ('subprocess', 'check_output'), ('nt', 'system'),
         ('importlib', 'import_module'), ('runpy', 'run_path'), ('webbrowser', 'open'),
         ('torch', 'load'), ('torch.hub', 'load'), ('pickle', 'loads'), ('builtins', 'getattr'),
         ('shutil', 'rmtree'), ('torch.serialization', 'load'), ('numpy', 'load'),
         ('torch._utils', '_import_dotted_name'), ('pytorch_lightning.x', 'system')]


def cases(torch, home):
  """Broken and hostile checkpoints by name, bytes; and the tensors of the good one."""
  rng = np.random.RandomState(3)
  table = {f'layer.{i}.weight': torch.from_numpy(rng.standard_normal((4, 3)).astype(np.float32))
           for i in range(3)}
  found = {}
  for zipped in (True, False):
    torch.save({'state_dict': table, 'epoch': 1}, home / 'good.ckpt',
               _use_new_zipfile_serialization=zipped)
    raw = (home / 'good.ckpt').read_bytes()
    found |= {f'cut or flipped, {zipped}, {i}': content for i, content in enumerate(
        cut_and_flipped(raw, cuts=25, flips=60, seed=int(zipped)))}
  found |= {f'{module}.{name}': hostile(module, name, f'touch {home / "ran"}')
            for module, name in CALLS}
  found |= {f'{module}.{name} in a zip': archive({
    'x/data.pkl': hostile(module, name, f'touch {home / "ran"}'), 'x/version': b'3\n',
    'x/byteorder': b'little'}) for module, name in CALLS}
  for name, value in {'a tensor': torch.ones(2), 'a list': [torch.ones(2)], 'no tensors': {'a': 1},
                      'numbers for keys': {1: torch.ones(1)}, 'a table of tables': {'a': {'b': 1}},
                      'empty': {}, 'a state of none': {'state_dict': 3},
                      'more than it holds': {'a': torch.ones(1).expand(10 ** 12)},
                      'sparse': {'a': torch.eye(3).to_sparse()}}.items():
    torch.save(value, home / 'odd.ckpt')
    found[name] = (home / 'odd.ckpt').read_bytes()
  return found, {key: value.numpy() for key, value in table.items()}


READ = '''
import contextlib, importlib.util, io, json, pathlib, sys
spec = importlib.util.spec_from_file_location('unpickle', sys.argv[1])
unpickle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(unpickle)
for path in sorted(pathlib.Path(sys.argv[2]).glob('*.ckpt')):
  said = io.StringIO()
  with contextlib.redirect_stderr(said):
    status = unpickle.main(str(path.with_suffix('.safetensors')), str(path))
  print(json.dumps([path.stem, status, said.getvalue()]), flush=True)
'''


@pytest.mark.slow
def test_pickles_that_are_cut_or_flipped_or_hostile_are_refused_or_harmless(tmp_path):
  torch = pytest.importorskip('torch')
  found, table = cases(torch, tmp_path)
  (tmp_path / 'passed').mkdir()
  names = []
  for name, content in found.items():
    path = tmp_path / 'passed' / f'{len(names)}.ckpt'
    path.write_bytes(content)
    try:
      pickles.check(path)
      names.append(name)
    except ValueError as error:
      assert len(str(error).splitlines()) == 1 and str(path) in str(error)
      path.unlink()
  assert len(found) > 200 and 100 < len(names) < len(found) - 50
  script = torch_worker.SCRIPTS / 'unpickle.py'
  with subprocess.Popen([sys.executable, '-P', '-W', 'ignore', '-c', READ, script,
                         tmp_path / 'passed'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        text=True) as process:           # its standard input stays open
    told = [json.loads(line) for line in process.stdout]
  assert process.returncode == 0 and len(told) == len(names)
  assert not (tmp_path / 'ran').exists()
  for number, status, said in told:
    out, name = tmp_path / 'passed' / f'{number}.safetensors', names[int(number)]
    assert out.exists() == (status == 0), name
    if status:
      assert len(said.splitlines()) == 1 and len(said) < 500, (name, said)
    else:
      assert name.startswith('cut or flipped'), name
      for key, x in safetensors.numpy.load_file(out).items():      # the zip's sums are checked
        assert not name.startswith('cut or flipped, True') or np.array_equal(x, table[key]), name
