"""Three hundred broken or hostile weights files: each ends in one line that names file and cause,
soon and in little memory. A flip in the header is refused or changes no tensor; a flip in a tensor
is seen by its hash alone."""
import contextlib
import hashlib
import json
import os
import pathlib
import pickle
import re
import tempfile
import time
import tracemalloc

import jax
import numpy as np
import pytest
import refusals
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.weights import safetensors_io, tensor_files

EXAMPLES, SECONDS, MEMORY = 20, 5., 64 * 2 ** 20
TENSORS = {'conv.0.weight': np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2),
           'conv.0.bias': np.arange(3, dtype=np.float32),
           'norm.weight': np.linspace(-1, 1, 7, dtype=np.float16),
           'ids': np.arange(5, dtype=np.int32)}
LIKE = {'conv_0': {'kernel': np.zeros((2, 2, 2, 3), np.float32), 'bias': np.zeros(3, np.float32)},
        'norm': {'scale': np.zeros(7, np.float32)}, 'ids': np.zeros(5, np.int32)}
GOOD = safetensors.numpy.save(TENSORS, {'format': 'pt', 'note': 'x'})
DATA = 8 + int.from_bytes(GOOD[:8], 'little')            # where the tensors begin
HEADER = json.loads(GOOD[8:DATA])
HASH = hashlib.sha256(GOOD).hexdigest()


def right(params):
  """Whether the parameters are those of TENSORS."""
  conv = params['conv_0']['kernel'].transpose(3, 2, 0, 1)
  ours = {'conv.0.weight': conv, 'conv.0.bias': params['conv_0']['bias'],
          'norm.weight': params['norm']['scale'],
          'ids': params['ids']}
  return all(np.array_equal(ours[key], TENSORS[key]) for key in TENSORS)


@contextlib.contextmanager
def bounded():
  """Fails where the block takes too long, or asks for too much memory at once."""
  tracemalloc.start()
  start = time.process_time()
  try:
    yield
    assert time.process_time() - start < SECONDS
    assert tracemalloc.get_traced_memory()[1] < MEMORY
  finally:
    tracemalloc.stop()


def load(files, name, **options):
  """Load `name` from a folder of these files: bytes, or a symlink's target."""
  with tempfile.TemporaryDirectory() as home:
    inside = pathlib.Path(home) / 'model'
    inside.mkdir()
    (pathlib.Path(home) / 'outside.safetensors').write_bytes(GOOD)
    for file, content in files.items():
      if isinstance(content, bytes):
        (inside / file).write_bytes(content)
      else:
        (inside / file).symlink_to(content)
    with bounded():
      return safetensors_io.load(inside / name, LIKE, **options)


def refused(content, match, *, name='w.safetensors', files=None, **options):
  """The file ends in one line that names it and the cause."""
  with refusals.refused(match, (ValueError, FileNotFoundError)) as caught:
    load(files or {name: content}, name, **options)
  text = str(caught.value)
  assert len(text) < 5_000 and re.search(r'model/[\w.\-]+\.(safetensors|json)', text), text


def rewritten(header):
  """The good file with another header."""
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, 'little') + text + GOOD[DATA:]


def edited(key, **fields):
  return rewritten(HEADER | {key: HEADER[key] | fields})


def flipped(content, bit):
  raw = bytearray(content)
  raw[bit // 8] ^= 1 << bit % 8
  return bytes(raw)


many = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
keys = st.sampled_from(sorted(TENSORS))
OFFSETS = r'no valid safetensors file \(.*(invalid|out of range|overflow|not fully covered)'


def test_the_good_file_is_read():
  assert right(load({'w.safetensors': GOOD}, 'w.safetensors', sha256=HASH))


@many
@given(st.integers(0, len(GOOD) - 1))
def test_a_truncated_file_is_refused(n):
  refused(GOOD[:n], 'no valid safetensors file.*(is empty|cut short|of another kind)')


@many
@given(st.binary(min_size=1, max_size=40))
def test_bytes_that_no_tensor_owns_are_refused(extra):
  refused(GOOD + extra, 'cut short or has bytes no tensor owns')


@settings(many, max_examples=60)
@given(st.integers(0, 8 * DATA - 1))
def test_a_flip_in_the_header_is_refused_or_harmless(bit):
  content = flipped(GOOD, bit)
  try:
    assert right(load({'w.safetensors': content}, 'w.safetensors'))
  except ValueError:
    refused(content, 'w.safetensors')


@many
@given(st.integers(0, 8 * len(GOOD) - 1))
def test_any_flip_is_refused_where_the_hash_is_given(bit):
  refused(flipped(GOOD, bit), 'has sha256 .* damaged', sha256=HASH)


@many
@given(keys, st.sampled_from(['BOOL', 'U8', 'I8', 'I16', 'U16', 'F64', 'I64', 'U64', 'F8_E4M3',
                              'f32', '', 'X', None, 3, ['F32']]))
def test_a_wrong_dtype_is_refused(key, dtype):
  refused(edited(key, dtype=dtype), r'fp8|unknown variant|invalid (type|shape)|wrong dtype')


@many
@given(st.sampled_from(['conv.0.weight', 'conv.0.bias', 'ids']))
def test_another_kind_of_number_of_the_same_size_is_refused(key):
  refused(edited(key, dtype='F32' if HEADER[key]['dtype'] == 'I32' else 'I32'),
          rf"wrong dtype \['{key} ")


counts = st.one_of(st.integers(0, 9), st.integers(-2 ** 70, 2 ** 70),
                   st.sampled_from([2 ** 31, 2 ** 63 - 1, 1.5, True, None, '3', [1]]))


@many
@given(keys, st.lists(counts, max_size=40))
def test_a_wrong_shape_is_refused(key, shape):
  if shape != HEADER[key]['shape']:
    refused(edited(key, shape=shape), 'wrong shape|no valid safetensors file .*'
            '(invalid|out of range|overflow|too many)')


@many
@given(keys, st.permutations([3, 2, 2, 2]), st.integers(1, 23))
def test_a_shape_of_the_right_size_but_not_the_models_is_refused(key, shape, factor):
  shape = shape if key == 'conv.0.weight' else [1, *HEADER[key]['shape']]
  if shape != HEADER[key]['shape']:
    refused(edited(key, shape=shape), r'does not fit the model: .*wrong shape \[.*' + key)


@many
@given(keys, st.lists(counts, max_size=3))
def test_wrong_offsets_are_refused(key, offsets):
  if offsets != HEADER[key]['data_offsets']:
    refused(edited(key, data_offsets=offsets), OFFSETS)


@many
@given(keys, st.integers(-40, 40).filter(bool))
def test_a_tensor_over_the_bytes_of_another_is_refused(key, shift):
  begin, end = (max(0, n + shift) for n in HEADER[key]['data_offsets'])
  if [begin, end] != HEADER[key]['data_offsets']:
    refused(edited(key, data_offsets=[begin, end]), OFFSETS)


@many
@given(st.one_of(st.integers(DATA - 7, 2 ** 64 - 1),
                 st.sampled_from([2 ** 63, 2 ** 32, 2 ** 31 - 1, 100_000_001])))
def test_a_hostile_header_size_is_refused(length):
  refused(length.to_bytes(8, 'little') + GOOD[8:], r'no valid safetensors file \(.*header')


@many
@given(st.integers(110, 400_000), st.sampled_from(['[', '{"a":', '{"a":[']), st.booleans())
def test_deep_json_is_refused(depth, opening, closed):
  says = 'nested too deep' if closed else 'nested too deep|no valid JSON'
  text = opening * depth
  if closed:
    text += '1' + text[::-1].translate(str.maketrans('[{', ']}', '":a'))
  refused(len(text).to_bytes(8, 'little') + text.encode(), 'no valid safetensors file .*'
          '(invalid type|recursion limit|missing field)')
  refused(text.encode(), says, name='w.safetensors.index.json')


@many
@given(st.integers(0, pickle.HIGHEST_PROTOCOL), st.dictionaries(st.text(), st.floats(), max_size=3))
def test_a_pickle_renamed_is_refused(protocol, value):
  remedy = 'Convert one you trust by: python -c' if protocol >= 2 else 'no valid safetensors file'
  refused(pickle.dumps(value, protocol), remedy)


@many
@given(keys, st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 22))
def test_values_that_are_not_finite_are_refused(key, value, place):
  tensors = {k: v.copy() for k, v in TENSORS.items()}
  key = 'norm.weight' if key == 'ids' else key
  tensors[key].reshape(-1)[place % tensors[key].size] = value
  refused(safetensors.numpy.save(tensors), rf"not finite.* in \['{key}'\]")


def sharded():
  """{name: bytes} of three shards, and the table of their index."""
  names = [f'w-{i}.safetensors' for i in range(3)]
  table = {key: names[i % 3] for i, key in enumerate(TENSORS)}
  files = {name: safetensors.numpy.save({k: v for k, v in TENSORS.items() if table[k] == name})
           for name in names}
  return files, table


def index(table):
  return {'w.safetensors.index.json': json.dumps({'metadata': {}, 'weight_map': table}).encode()}


FILES, TABLE = sharded()
shards, INDEX = st.sampled_from(sorted(FILES)), 'w.safetensors.index.json'


def test_a_sharded_model_is_read_and_its_hashes_are_checked():
  assert right(load(FILES | index(TABLE), INDEX))
  hashes = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
  assert right(load(FILES | index(TABLE), INDEX, sha256=hashes))
  refused(None, 'one sha256 cannot vouch', name=INDEX, files=FILES | index(TABLE), sha256=HASH)
  refused(None, r"sha256 says nothing of \['w-1", name=INDEX, files=FILES | index(TABLE), sha256={
      name: value for name, value in hashes.items() if '1' not in name})
  broken = FILES | {'w-2.safetensors': flipped(FILES['w-2.safetensors'],
                                               8 * len(FILES['w-2.safetensors']) - 1)}
  refused(None, 'w-2.safetensors has sha256', name=INDEX, files=broken | index(TABLE),
          sha256=hashes)


@settings(many, max_examples=3)
@given(shards)
def test_a_missing_shard_is_named(name):
  refused(None, f'no file at .*{name}', name=INDEX,
          files={k: v for k, v in FILES.items() if k != name} | index(TABLE))


@many
@given(keys, shards, st.booleans())
def test_an_index_that_disagrees_with_its_shards_is_refused(key, name, without):
  table = {k: v for k, v in TABLE.items() if k != key} | ({} if without else {key: name})
  if table != TABLE:
    refused(None, 'disagree|missing', name=INDEX, files=FILES | index(table))


@many
@given(keys, st.one_of(st.text(max_size=20), st.sampled_from([
    '../outside.safetensors', '/etc/passwd', 'a/../../outside.safetensors', '..', '',
    'w-0.safetensors\0', '.safetensors', None,
    3, []])))
def test_a_shard_that_is_no_plain_file_name_is_refused(key, name):
  refused(None, 'no .safetensors file beside it|no weight_map', name=INDEX,
          files=FILES | index(TABLE | {key: name}))


@settings(many, max_examples=10)
@given(shards, st.sampled_from(['../outside.safetensors', '/dev/zero', '/proc/self/environ',
                                'w-9.safetensors', '/dev/stdin']))
def test_a_symlink_is_followed_and_what_it_leads_to_is_checked(name, target):
  files = FILES | {name: target}
  match = 'no file at .*nowhere' if target.startswith(
      'w-9') else 'disagree|a folder or a device|no valid safetensors file'
  refused(None, match, name=INDEX, files=files | index(TABLE))


ONE = b'{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'


@pytest.mark.parametrize('text, match', [
    (b'{"a": 1, "a": 2}', 'invalid type'), (b'{"a": NaN}', 'invalid JSON'),
    (b'\xff\xfe', 'invalid UTF-8'), (b'[]', 'invalid type: sequence'),
    (b'{"a": ' + b'9' * 5000 + b'}', 'out of range'), (b'{"a": {}}', 'missing field `dtype`'),
    (b'{"__metadata__": {"a": 1}}', 'invalid type: integer `1`, expected a string'),
    (b'{"a": {"dtype": "' + b'a' * 9000 + b'"}}', 'unknown variant'),
    (b'{"' + b'a' * 9000 + b'": ' + ONE + b'}', 'does not fit the model'),
    (b'{"a": "\n"}', 'invalid JSON'), (b'{"a": ' + ONE.replace(b'0', b'0,' * 40 + b'0', 1) + b'}',
                                       'too many axes'),
    (b'{"a": ' + ONE.replace(b'0', b'0,18446744073709551615', 1) + b'}', 'too many axes or elem')])
def test_a_header_that_is_no_table_of_tensors_is_refused(text, match):
  refused(len(text).to_bytes(8, 'little') + text, match)


def test_an_index_that_repeats_a_name_is_refused():
  text = b'{"weight_map": {"ids": "w-0.safetensors", "ids": "w-1.safetensors"}}'
  refused(None, 'a name is repeated', name=INDEX, files=FILES | {INDEX: text})


def test_a_file_that_is_cut_while_it_is_read_is_named(tmp_path):
  path = tmp_path / 'w.safetensors'
  path.write_bytes(GOOD)
  with tensor_files.opened(path) as file:
    os.truncate(path, DATA)
    with refusals.refused('w.safetensors is no valid safetensors file'):
      file.read('conv.0.weight')


def test_a_pipe_and_a_folder_are_refused_without_waiting(tmp_path):
  os.mkfifo(tmp_path / 'w.safetensors')
  for path in (tmp_path / 'w.safetensors', tmp_path):
    with pytest.raises(ValueError, match='a folder or a device where a file is wanted'):
      safetensors_io.load(path, LIKE)


def test_a_foreign_file_lists_its_keys_up_to_a_limit(tmp_path):
  safetensors.numpy.save_file({f'x.{i:04d}': np.zeros(1, np.float32) for i in range(3000)},
                              tmp_path / 'w.safetensors')
  with pytest.raises(ValueError, match=r"'x.0099'\] and 2900 more") as caught:
    safetensors_io.load(tmp_path / 'w.safetensors', jax.eval_shape(lambda: LIKE))
  assert len(str(caught.value)) < 5_000
