"""benchmarks.gpu goes on through whatever fails, keeps what it has, and needs no package that a
bare CUDA image lacks; a step is taken apart into the parts that it is made of."""
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import full_size, gpu, house, peaks, results, roofline

# what such an image has not, beside ml_collections, which docs/profiling.md says how to bring
LACKING = ('beartype', 'diffusers', 'fast_simplification', 'imageio', 'imageio_ffmpeg', 'jinja2',
           'matplotlib', 'peft', 'platformdirs', 'trimesh', 'xatlas')
IMPORTS = f'''
import sys
class Lacking:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in {LACKING!r}:
      raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Lacking())
from benchmarks import gpu, gpu_parity, roofline
from jaxdreamer import loop
'''


def test_nothing_is_imported_that_a_bare_image_lacks():
  done = subprocess.run([sys.executable, '-c', IMPORTS], cwd=house.ROOT, capture_output=True,
                        text=True)
  assert done.returncode == 0, done.stderr


@pytest.fixture
def told(tmp_path):
  return gpu.Told(path=tmp_path / 'gpu.json', minutes=1., tiny=True)


def run(monkeypatch, path, parts, *options):
  monkeypatch.setattr(gpu, 'PARTS', parts)
  monkeypatch.setattr(sys, 'argv', ['gpu', '--tiny', f'--out={path}', *options])
  was = jax.config.jax_compilation_cache_dir
  try:
    gpu.main()
  finally:
    jax.config.update('jax_compilation_cache_dir', was)
  return json.loads(path.read_text())


def test_what_fails_is_written_and_takes_nothing_else_along(monkeypatch, tmp_path):
  def fails(told):
    told.keep('half', {'ms': 1.23456})
    raise RuntimeError('no such\nkernel')
  found = run(monkeypatch, tmp_path / 'gpu.json', (
    ('card', 1, lambda told: {'flops': 1e12}), ('half', 1, fails),
    ('last', 1, lambda told: {'a': 1})))
  assert found['half'] == {'ms': 1.235, 'error': 'RuntimeError: no such kernel'}
  assert found['last'] == {'a': 1} and found['made']['versions']['jax'] == jax.__version__


def test_a_run_that_is_cut_leaves_what_it_has(monkeypatch, tmp_path):
  def cut(told):
    raise KeyboardInterrupt
  with pytest.raises(KeyboardInterrupt):
    run(monkeypatch, tmp_path / 'gpu.json', (('card', 1, lambda told: {'a': 1}), ('cut', 1, cut)))
  assert json.loads((tmp_path / 'gpu.json').read_text())['card'] == {'a': 1}


def test_what_there_is_no_time_for_is_skipped(monkeypatch, tmp_path):
  found = run(monkeypatch, tmp_path / 'gpu.json', (('card', 9, lambda told: {'a': 1}),),
              '--minutes=-1')
  assert found['card']['skipped'].startswith('takes 9 s, and -')


def test_fused_attention_that_fails_is_done_without(monkeypatch, told):
  monkeypatch.setattr(gpu.gpu_parity, 'CASES', {'attention': None, 'render': None})
  monkeypatch.setattr(gpu.gpu_parity, 'difference', lambda name, *devices: (
    float('nan') if name == 'attention' else 0., .1))
  monkeypatch.setattr(gpu.attention, 'capability', lambda: (9, 0))
  found = gpu.parity(told)
  assert found['attention'] == {'apart': None, 'tolerance': .1, 'passes': False}
  assert found['render']['passes'] and not found['all_pass']
  assert gpu.attention.capability() == (0, 0)


def test_the_best_of_pytorch_is_held_against_ours():
  figures = {'step_dreamfusion_sd': {'ms': 20.}, 'unet_sd15': {'batch2_ms': 4.},
             'torch_dreamfusion_sd': {'eager_ms': 90., 'compiled_ms': 60.},
             'torch_unet': {'sd15_batch2_eager_ms': 10., 'sdxl_batch2_eager_ms': 9.,
                            'sd15_batch2_compiled_error': 'x'}, 'torch_prolificdreamer_sd': {}}
  assert gpu.ratios(figures) == {'dreamfusion_sd_faster_than_torch': 3.,
                                 'sd15_batch2_eager_over_ours': 2.5}


@pytest.mark.slow
def test_a_unet_is_timed_with_its_share_of_the_matrix_rate(told):
  told.figures['card'] = {'flops': 1e9}
  found = gpu.unet(told, 'sd15')
  for batch in full_size.BATCHES:
    took, work = found[f'batch{batch}_ms'], found[f'batch{batch}_gflop']
    assert found[f'batch{batch}_share'] == pytest.approx(1e3 * work / took, rel=1e-3)
  assert found['batch8_gflop'] == pytest.approx(4. * found['batch2_gflop'], rel=.02)


def test_the_arithmetic_of_products_is_counted_as_it_is_written():
  a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
  assert peaks.matrix_flops(jnp.matmul, a, b) == 2. * 3 * 4 * 5
  loop = lambda a: jax.lax.scan(lambda x, _: (jnp.cos(x) @ b @ b.T, None), a, None, 7)[0]
  assert peaks.matrix_flops(jax.jit(loop), a) == 7. * 2. * (3 * 4 * 5 + 3 * 5 * 4)
  x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 6))
  conv = lambda x: jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME',
                                                dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  assert peaks.matrix_flops(conv, x) == 2. * (2 * 8 * 8 * 6) * (3 * 3 * 3)


def test_rates_of_the_device_are_measured():
  found = peaks.peaks(tiny=True)
  assert found['flops'] > 1e6 and found['bytes'] > 1e6


@pytest.mark.slow
def test_a_step_is_taken_apart_and_its_next_bottleneck_named():
  before = sorted(results.RESULTS.iterdir())
  done = subprocess.run([sys.executable, '-m', 'benchmarks.roofline', '--quick',
                         '--config=configs/toybox.py:empirical'], cwd=house.ROOT,
                        capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  last = done.stdout.splitlines()[-1]
  assert last.startswith('next bottleneck: ') and last.endswith('rate of this device')
  assert sorted(results.RESULTS.iterdir()) == before


def test_a_part_is_bound_by_what_it_is_nearest_to():
  best = {'flops': 1e9, 'bytes': 1e8}
  rows = [roofline.row(name, seconds, flops, nbytes, whole=1., best=best) for name, seconds, flops,
          nbytes in (('render', .5, 1e8, 4e7), ('predict', .4, 3.2e8, 1e6), ('step', 1., 0., 0.))]
  assert [row['bound'] for row in rows[:2]] == ['memory', 'arithmetic']
  assert rows[0]['of_bytes'] == pytest.approx(.8) and rows[1]['of_flops'] == pytest.approx(.8)
  assert roofline.bottleneck(rows) == ('next bottleneck: render, 50% of a step; it comes to 80% of '
                                       'the copy rate of this device')
