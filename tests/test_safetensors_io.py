"""The safetensors reader and writer: names, transposes, strictness. Parity:
parity/test_unet_parity.py."""
import pickle
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdreamer.weights import safetensors_io


def model(key, width):
  """A tree with one parameter of every kind."""
  k = jax.random.split(key, 5)
  return {'conv_in': {'kernel': jax.random.normal(k[0], (3, 1, 4, width)),
                      'bias': jnp.arange(1. * width)},
          'norm': {'scale': jax.random.normal(k[1], (width,))},
          'layers_0': {'linear_1': {'kernel': jax.random.normal(k[2], (width, 2))}},
          'token_embedding': {'embedding': jax.random.normal(k[3], (7, width))},
          'class_token': jax.random.normal(k[4], (1, width))}


@pytest.fixture
def tree():
  """Two models in one tree."""
  return {'unet': model(jax.random.key(0), 5), 'text_model': model(jax.random.key(1), 6)}


@pytest.mark.parametrize('path, key', [
    (('down_blocks_0', 'resnets_1', 'conv1', 'kernel'), 'down_blocks.0.resnets.1.conv1.weight'),
    (('up_blocks_2', 'attentions_0', 'transformer_blocks_10', 'norm3', 'scale'),
     'up_blocks.2.attentions.0.transformer_blocks.10.norm3.weight'),
    (('attn1', 'to_out_0', 'bias'), 'attn1.to_out.0.bias'),
    (('time_embedding', 'linear_1', 'kernel'), 'time_embedding.linear_1.weight'),
    (('readout_projects_3_0', 'kernel'), 'readout_projects.3.0.weight'),
    (('embeddings', 'position_embedding', 'embedding'), 'embeddings.position_embedding.weight'),
    (('embeddings', 'class_embedding'), 'embeddings.class_embedding')])
def test_a_path_is_its_published_key(path, key):
  assert safetensors_io.key_of(path) == key


@pytest.mark.parametrize('dtype, bits', [(jnp.float32, 24), (jnp.float16, 11), (jnp.bfloat16, 8)])
def test_load_inverts_save_to_half_a_unit_of_the_stored_precision(tmp_path, tree, dtype, bits):
  safetensors_io.save(tmp_path / 'w.safetensors', tree, dtype=dtype)
  back = safetensors_io.load(tmp_path / 'w.safetensors', jax.eval_shape(lambda: tree))
  assert jax.tree.structure(back) == jax.tree.structure(tree)
  for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(back)):
    assert b.dtype == jnp.float32
    np.testing.assert_allclose(a, b, rtol=2. ** -bits, atol=1e-7)


def test_a_stored_kernel_computes_torchs_formula(tmp_path, tree):
  safetensors_io.save(tmp_path / 'w.safetensors', tree, dtype=jnp.float32)
  file = safetensors.numpy.load_file(tmp_path / 'w.safetensors')
  x = np.random.RandomState(0).standard_normal((5,)).astype(np.float32)
  dense = tree['unet']['layers_0']['linear_1']['kernel']
  np.testing.assert_allclose(file['unet.layers.0.linear_1.weight'] @ x, x @ dense, rtol=1e-5)
  conv, stored = tree['unet']['conv_in']['kernel'], file['unet.conv_in.weight']
  assert all(stored[o, i, y, 0] == conv[y, 0, i, o] for o in range(5) for i in range(4)
             for y in range(3))


def test_one_message_lists_every_missing_unused_and_misshapen_key(tmp_path, tree):
  safetensors_io.save(tmp_path / 'w.safetensors', tree)
  tree['unet']['extra'] = {'kernel': jnp.zeros((2, 3))}
  del tree['text_model']['norm']
  tree['text_model']['conv_in']['kernel'] = jnp.zeros((3, 3, 4, 6))
  with pytest.raises(ValueError) as error:
    safetensors_io.load(tmp_path / 'w.safetensors', tree)
  for part in ('w.safetensors', "missing ['unet.extra.weight']",
               "unused ['text_model.norm.weight']",
               'text_model.conv_in.weight (6, 4, 3, 1) for (6, 4, 3, 3)'):
    assert part in str(error.value)


def test_rename_reads_a_file_of_another_layout(tmp_path, tree):
  safetensors_io.save(tmp_path / 'w.safetensors',
                      {'old': tree['unet'], 'ema': {'decay': jnp.ones(())}})
  rows = ((r'^ema\.', None), (r'^old\.(.*)', r'\1'))
  back = safetensors_io.load(tmp_path / 'w.safetensors', tree['unet'], rename=rows)
  np.testing.assert_allclose(back['norm']['scale'], tree['unet']['norm']['scale'], rtol=1e-3)
  with pytest.raises(ValueError, match='same new name'):
    safetensors_io.load(tmp_path / 'w.safetensors', tree['unet'], rename=[(r'.*', 'x')])


@pytest.mark.parametrize('name', ['model.bin', 'model.pt', 'model.ckpt', 'model.safetensors'])
def test_a_pickle_is_refused_with_the_line_that_converts_it(tmp_path, name):
  class Evil:
    def __reduce__(self):
      return (pytest.fail, ('the pickle was opened',))

  with zipfile.ZipFile(tmp_path / name, 'w') as archive:
    archive.writestr('archive/data.pkl', pickle.dumps(Evil()))
  with pytest.raises(ValueError, match='no valid safetensors file .* Convert one you trust by: '
                     'python -c'):
    safetensors_io.load(tmp_path / name, {})


def test_a_missing_file_is_named_with_the_remedy(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere.safetensors: download'):
    safetensors_io.load(tmp_path / 'nowhere.safetensors', {})


def test_a_value_too_large_for_half_precision_is_refused_and_the_old_file_stays(tmp_path, tree):
  path = tmp_path / 'w.safetensors'
  safetensors_io.save(path, tree)
  before = path.read_bytes()
  tree['unet']['norm']['scale'] = jnp.full((5,), 1e6)
  with pytest.raises(ValueError, match=r"float16 cannot hold.*\['unet.norm.weight'\]"):
    safetensors_io.save(path, tree)
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ['w.safetensors']


def test_metadata_comes_back_as_strings_and_json(tmp_path, tree):
  safetensors_io.save(tmp_path / 'w.safetensors', tree,
                      metadata={'seed': 3, 'command': 'python -m x', 'config': {'a': [1, 2]}})
  metadata = safetensors_io.read_metadata(tmp_path / 'w.safetensors')
  assert metadata == {'format': 'pt', 'seed': '3', 'command': 'python -m x',
                      'config': '{"a": [1, 2]}'}


def test_integers_stay_integers(tmp_path):
  tree = {'ids': jnp.arange(5, dtype=jnp.int32)}
  safetensors_io.save(tmp_path / 'w.safetensors', tree)
  back = safetensors_io.load(tmp_path / 'w.safetensors', tree)
  assert back['ids'].dtype == jnp.int32 and (back['ids'] == tree['ids']).all()


def test_two_parameters_of_one_name_are_refused(tmp_path):
  with pytest.raises(ValueError, match='2 parameters share 1'):
    safetensors_io.save(tmp_path / 'w.safetensors',
                 {'a': {'scale': jnp.ones(2), 'kernel': jnp.ones((2, 2))}})


def test_sharding_puts_each_part_on_its_device(tmp_path, tree):
  mesh = jax.make_mesh((4,), ('model',), axis_types=(jax.sharding.AxisType.Auto,))
  rows, whole = (jax.NamedSharding(mesh, jax.P(*spec)) for spec in (('model',), ()))
  big = {'dense': {'kernel': jnp.arange(96.).reshape(8, 12), 'bias': jnp.arange(12.)}}
  safetensors_io.save(tmp_path / 'w.safetensors', big)
  back = safetensors_io.load(tmp_path / 'w.safetensors', big,
                             sharding={'dense': {'kernel': rows, 'bias': whole}})
  assert back['dense']['kernel'].sharding == rows and back['dense']['bias'].sharding == whole
  for i, shard in enumerate(back['dense']['kernel'].addressable_shards):
    np.testing.assert_array_equal(shard.data, big['dense']['kernel'][2 * i:2 * i + 2])
  both = safetensors_io.load(tmp_path / 'w.safetensors', big, sharding=rows)['dense']
  assert both['kernel'].sharding == both['bias'].sharding == rows
  np.testing.assert_array_equal(both['bias'], big['dense']['bias'])


def test_rename_cuts_and_turns_tensors(tmp_path):
  fused = np.arange(36, dtype=np.float32).reshape(9, 4)
  safetensors.numpy.save_file({'in_proj_weight': fused, 'projection': fused},
                              tmp_path / 'w.safetensors')
  like = {name: {'kernel': jnp.zeros((4, 3))}
          for name in 'qkv'} | {'out': {'kernel': jnp.zeros((9, 4))}}
  rows = ((r'^in_proj_weight$', ('q.weight', 'k.weight', 'v.weight')),
          (r'^projection$', 'out.weight', np.transpose))
  back = safetensors_io.load(tmp_path / 'w.safetensors', like, rename=rows)
  for name, stored in zip('qkv', (fused[:3], fused[3:6], fused[6:])):
    np.testing.assert_array_equal(back[name]['kernel'], stored.T)
  np.testing.assert_array_equal(back['out']['kernel'], fused)
  for wrong in (fused[:8], fused[0, 0]):
    safetensors.numpy.save_file({'in_proj_weight': np.asarray(wrong), 'projection': fused},
                                tmp_path / 'w.safetensors')
    with pytest.raises(ValueError, match=r'wrong shape \[.k.weight \(.*\) for \(3, 4\)'):
      safetensors_io.load(tmp_path / 'w.safetensors', like, rename=rows)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 1e5])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path, value):
  good, bad = np.ones((300, 300), np.float32), np.ones((300, 300), np.float32)
  bad[299, 7] = value                                # in the last of the blocks that are cast
  safetensors.numpy.save_file({'a.weight': good, 'b.weight': bad}, tmp_path / 'w.safetensors')
  like = {name: {'kernel': jnp.zeros((300, 300))} for name in 'ab'}
  with pytest.raises(ValueError, match=r"w.safetensors: .* too large for float16 .* in "
                     r"\['b.weight'\]"):
    safetensors_io.load(tmp_path / 'w.safetensors', like, dtype=jnp.float16)


@pytest.mark.parametrize('stored, wanted', [(jnp.int32, jnp.float32), (jnp.float32, jnp.int32),
                                            (jnp.bool_, jnp.int32)])
def test_another_kind_of_number_is_refused(tmp_path, stored, wanted):
  safetensors.numpy.save_file({'ids': np.ones(3, stored)}, tmp_path / 'w.safetensors')
  with pytest.raises(ValueError, match=rf"wrong dtype \['ids {jnp.dtype(stored).name} for "
                     rf"{jnp.dtype(wanted).name}'\]"):
    safetensors_io.load(tmp_path / 'w.safetensors', {'ids': jnp.ones(3, wanted)})


def test_integers_that_do_not_fit_are_refused(tmp_path):
  safetensors.numpy.save_file({'ids': np.array([1, 2 ** 32])}, tmp_path / 'w.safetensors')
  with pytest.raises(ValueError, match=r"integers wanted, in \['ids'\]"):
    safetensors_io.load(tmp_path / 'w.safetensors', {'ids': jnp.ones(2, jnp.int32)})


@pytest.mark.slow
def test_loading_takes_the_memory_of_the_model_and_of_one_tensor(tmp_path):
  tensors = {f'conv.{i}.weight': np.ones((512, 512, 3, 3), np.float32) for i in range(20)}
  safetensors.numpy.save_file(tensors, tmp_path / 'w.safetensors')
  safetensors.numpy.save_file({'conv.0.weight': np.ones((2, 2, 3, 3), np.float32)},
                              tmp_path / 'small.safetensors')
  size, largest = (tmp_path / 'w.safetensors').stat().st_size, 512 * 512 * 9 * 4
  code = f"""
import pathlib, re
import jax
from jaxdreamer.weights import safetensors_io
def kib(what):
  return int(re.search(what + r':\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1])
def load(name, n, width):
  leaf = {{'kernel': jax.ShapeDtypeStruct((3, 3, width, width), 'float32')}}
  return safetensors_io.load(pathlib.Path({str(tmp_path)!r}) / name,
                      {{f'conv_{{i}}': leaf for i in range(n)}})
load('small.safetensors', 1, 2)
before = kib('VmRSS')
params = load('w.safetensors', 20, 512)
print((kib('VmHWM') - before) * 1024)
"""
  used = int(subprocess.run([sys.executable, '-c', code], check=True, capture_output=True,
                            text=True).stdout)
  assert size < used < size + 1.5 * largest, (size, used)
