"""XLA takes the options of the trainings, and what it computes by them is what it computes
without."""
import chex
import jax
import jax.numpy as jnp
import pytest

from configs import base
from jaxdreamer import build
from jaxdreamer.toybox import xla_flags


@pytest.mark.skipif(not xla_flags.own_convolutions(),
                    reason='this backend does not take the options')
def test_convolutions_and_their_gradients_leave_ynn_and_keep_their_values():
  x, kernel = jax.random.normal(jax.random.key(0), (4, 16, 16, 32)), jax.random.normal(
      jax.random.key(1), (3, 3, 32, 32))
  def power(kernel):
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME',
                                     dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return jnp.mean(y ** 2)
  def built(options):
    return jax.jit(jax.value_and_grad(power), compiler_options=options).lower(kernel).compile()
  options = xla_flags.own_convolutions()
  ours, theirs = built(options), built(dict.fromkeys(options,
                                                     'LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'))
  def in_ynn(program):
    return any('__ynn_fusion' in line and '/conv_general_dilated"' in line
               for line in program.as_text().splitlines())
  assert in_ynn(theirs) and not in_ynn(ours)
  chex.assert_trees_all_close(ours(kernel), theirs(kernel), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason="a CPU's options")
def test_a_program_for_one_run_has_the_values_of_one_for_many():
  assert xla_flags.once()
  draw = lambda key: jax.random.normal(key, (1000,))
  once, often = (jax.jit(draw, compiler_options=options)(jax.random.key(0))
                 for options in (xla_flags.once(), {}))
  chex.assert_trees_all_close(once, often, rtol=1e-5, atol=1e-6)


def test_options_that_the_backend_does_not_take_are_left_out(monkeypatch):
  assert xla_flags.known({'xla_of_another_version': 1, 'xla_backend_optimization_level': 0}) == {
      'xla_backend_optimization_level': 0}
  monkeypatch.setattr(xla_flags, 'takes', lambda option, value: False)
  assert xla_flags.own_convolutions() == {}


def test_the_options_are_asked_for_whatever_the_version(monkeypatch):
  monkeypatch.setattr(jax, '__version_info__', (0, 99, 0))
  monkeypatch.setattr(xla_flags, 'takes', lambda option, value: True)
  monkeypatch.setattr(xla_flags.platform, 'machine', lambda: 'x86_64')
  assert 'xla_cpu_experimental_ynn_fusion_type' in xla_flags.own_convolutions()


def test_xla_knows_the_option_that_a_gpu_is_told_to_add_in_a_fixed_order_by(monkeypatch):
  assert not xla_flags.deterministic()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  (told,) = xla_flags.deterministic().items()
  assert xla_flags.takes(*told) and not xla_flags.takes(told[0] + '_', told[1])


@pytest.mark.parametrize('asked', [False, True])
def test_a_deterministic_step_is_compiled_by_that_option(monkeypatch, asked):
  """Known by a backend that refuses another in its place."""
  monkeypatch.setattr(xla_flags, 'deterministic', lambda: {'no_such_option': True})
  config = base.get_config()
  config.update_from_flattened_dict({'scene.voxels.levels': (2,), 'deterministic': asked})
  training = build.training(config, build.make_mesh(config))
  (_, step), *_ = training.stages
  program = step.lower(jax.eval_shape(training.init, jax.random.key(0)), training.prior,
                       training.text(0))
  if asked:
    with pytest.raises(jax.errors.JaxRuntimeError, match='no_such_option'):
      program.compile(compiler_options={'xla_backend_optimization_level': 0})
  else:
    assert program.compile(compiler_options={'xla_backend_optimization_level': 0})
