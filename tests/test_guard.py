"""The guard: a healthy step is the unguarded one bit for bit, an ill one changes nothing, the
tensor that went bad first is named, and a scene that collapsed is told of."""
import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_train_step import begun, make_parts, ran, setup

from configs import toybox
from jaxdreamer import build, finishing, guard, loop, parallel
from jaxdreamer.estimators.sds import sds

SMALL = {'prior.name': 'test_processes:grey', 'render.background': 'white',
         'scene.sdf_voxels.levels': (4,), 'render.samples': 4, 'render.fine': 0, 'steps': 4}


def bits(tree):
  raw = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
  return [np.asarray(raw(x)).tobytes() for x in jax.tree.leaves(tree)]


def broken(*steps, est=False):
  """SDS whose residual, or with `est` what it learns, is not finite at these steps."""
  base = sds(guidance=2.)
  ill = lambda step, x: jnp.where(jnp.isin(step, jnp.array(steps)), jnp.inf, 1.) * x

  def residual(draws, own, prior, z, views, step):
    r, info = base.residual(draws, own, prior, z, views, step)
    return (r, info) if est else (ill(step, r), info)
  return base._replace(residual=residual, init=lambda key, prior: {'mu': jnp.float32(1.)},
                       loss=lambda draws, own, prior, z, views, step: (
                         own['mu'] - (ill(step, 3.) if est else 3.)) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(('devices', 'how', 'n'), [(1, 'shard_map', 1), (4, 'shard_map', 1),
                                                   (4, 'pmap', 1), (1, 'shard_map', 3)])
def test_a_healthy_step_is_the_unguarded_one_bit_for_bit(devices, how, n):
  local_step, *rest = setup()
  plain, guarded = (ran(parallel.scan_steps(step, n), *rest, devices=devices, how=how)
                    for step in (local_step, guard.guarded(local_step)))
  assert bits(plain[0]) == bits(guarded[0]) and guarded[1].pop('finite') == 1.
  assert bits(plain[1]) == bits(guarded[1])


@pytest.mark.slow
def test_a_whole_run_is_the_unguarded_one_bit_for_bit(monkeypatch):
  config = toybox.get_config()
  config.update_from_flattened_dict(SMALL)
  def end():
    training = build.training(config, build.make_mesh(config))
    return bits(training.advanced(training.init(jax.random.key(0)), steps=4))
  guarded = end()
  monkeypatch.setattr(guard, 'guarded', lambda step: step)
  assert end() == guarded


@pytest.mark.slow
@pytest.mark.parametrize('devices', [1, 2])
@pytest.mark.parametrize('est', [False, True])
def test_an_ill_step_keeps_all_but_the_step_and_the_next_draws_anew(devices, est):
  local_step, state, prior, text = setup(estimator=broken(1, est=est))
  step = guard.guarded(local_step)
  one, _ = ran(step, state, prior, text, calls=1, devices=devices)
  two, info = ran(step, state, prior, text, calls=2, devices=devices)
  assert int(two.step) == 2 and bits(two.params) == bits(one.params)
  assert bits(two.opt) == bits(one.opt) and bits(two.key) == bits(one.key)
  assert all(value == 0. for value in info.values())
  three, info = ran(step, dataclasses.replace(one, step=jnp.int32(2)), prior, text, calls=1,
                    devices=devices)
  healthy, _ = ran(step, state, prior, text, calls=3, devices=devices)
  assert info['finite'] == 1. and bits(healthy) == bits(three)


@pytest.mark.slow
def test_of_several_steps_in_one_program_the_ill_ones_are_left_out():
  local_step, state, prior, text = setup(estimator=broken(1, 2))
  alone, each = state, []
  for _ in range(4):
    alone, info = ran(guard.guarded(local_step), alone, prior, text, calls=1)
    each.append(info)
  together, mean = ran(parallel.scan_steps(guard.guarded(local_step), 4), state, prior, text,
                       calls=1)
  chex.assert_trees_all_close(together.params, alone.params, rtol=1e-5, atol=1e-7)
  assert mean['finite'] == .5 and [info['finite'] for info in each] == [1., 0., 0., 1.]
  assert mean['residual_power'] == pytest.approx(
    (each[0]['residual_power'] + each[3]['residual_power']) / 4, rel=1e-4)


def test_an_optimizer_that_makes_what_is_not_finite_is_seen_too():
  sour = optax.GradientTransformation(
    lambda params: {'left': jnp.ones(3), 'count': jnp.int32(0)},
    lambda grads, state, params=None: (jax.tree.map(jnp.zeros_like, grads),
                                       {'left': state['left'] / 0., 'count': state['count'] + 1}))
  local_step, state, prior, text = setup(tx=sour)
  after, info = ran(guard.guarded(local_step), state, prior, text, calls=1)
  assert info['finite'] == 0. and after.opt['count'] == 0 and (after.opt['left'] == 1.).all()


def looked_at(*, scene=lambda params: params, prior=lambda prior: prior, **parts):
  """What `look` finds first of the step of `parts` on two devices, its scene's parameters and its
  prior changed."""
  parts = make_parts(**parts)
  state, own, text = begun(parts)
  state = dataclasses.replace(state, params=state.params | {'scene': scene(state.params['scene'])})
  _, seen = ran(guard.make_look(parts), state, prior(own), text, calls=1, devices=2)
  return guard.first_bad(seen)


def with_rendering(render_latents):
  """Its depth is not a number in the views of one device alone."""
  def made(params, prior, text, camera, keys, step):
    z, cost, views, pullback = render_latents(params, prior, text, camera, keys, step)
    depth = jnp.where(jax.lax.axis_index('data') == 1, jnp.nan, 1.) * views.rendering.depth
    return z, cost, views._replace(rendering=views.rendering._replace(depth=depth)), pullback
  return made


NAN = {
  'params/scene/grid_9': {'scene': lambda p: p | {'grid_9': p['grid_9'].at[0, 0, 0, 0].set(
    jnp.nan)}},
  'prior': {'prior': lambda p: p.replace(weights=jax.tree.map(lambda w: w * jnp.inf, p.weights))},
  'rendering/depth': {'wrap': with_rendering},
  'z': {'prior': lambda p: p.replace(encode_fn=lambda weights, x: x / 0.)},
  'eps_hat': {'prior': lambda p: p.replace(
    eps_fn=lambda weights, z, t, text, camera: z / 0.)},
  'residual': {'estimator': broken(0)},
  'info/estimator_loss': {'estimator': broken(0, est=True)},
  '': {}}


@pytest.mark.slow
@pytest.mark.parametrize('first', NAN)
def test_the_tensor_that_went_bad_first_is_named(first):
  named = looked_at(**NAN[first])
  assert named.startswith(first) and bool(named) == bool(first)


@pytest.mark.parametrize(('rows', 'said'), [
  ([.001] * 3, 'empty'), ([.999] * 4, 'before all cameras'), ([.001, .001], ''), ([.3] * 9, ''),
  ([.001, .4, .001, .001], ''), ([.001, .001, .999], ''), ([.5, .004, .003, .002], 'empty')])
def test_a_collapse_is_told_of_once(rows, said):
  alarm = guard.Collapse(watched=True)
  told = [line for row in rows + rows[-1:] * 5 if (line := alarm({'opacity': row}))]
  if said:
    assert len(told) == 1 and said in told[0] and 'config.' in told[0] and '\n' not in told[0]
  else:
    assert not told or rows[-1] in (.001, .999)
  silent = guard.Collapse(watched=False)
  assert not any(silent({'opacity': row}) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(('changes', 'told'), [({}, 0), ({'regularizers.opacity': (1000.,)}, 1),
                                               ({'regularizers.opacity': (1000.,),
                                                 'eval.inside': .5}, 0)])
def test_a_run_that_is_too_sparse_is_told_so_and_no_other(tmp_path, monkeypatch, capfd, changes,
                                                          told):
  config = toybox.get_config()
  config.update_from_flattened_dict(SMALL | {'mesh.data': 1, 'steps': 40, 'log_every': 4,
                                             'scene.sdf_voxels.sharpness': (30.,)} | changes)
  monkeypatch.setattr(finishing, 'finish', lambda *_, **__: {})
  loop.run(config, tmp_path, build.make_mesh(config))
  said = [line for line in capfd.readouterr().out.splitlines() if 'scene is empty' in line]
  assert len(said) == told and all(line.startswith('warning: ') for line in said)
