"""Schedules and the optax chain of regex groups."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdreamer import optim


def test_schedules_of_config():
  assert optim.schedule(.3)(100) == pytest.approx(.3)
  falling = optim.schedule((1., .5, 100))
  np.testing.assert_allclose([falling(0), falling(50), falling(200)], [1., .75, .5], rtol=1e-6)
  late = optim.schedule((0., 1., 50, 100))
  np.testing.assert_allclose([late(50), late(100), late(150)], [0., .5, 1.], atol=1e-6)
  with pytest.raises(ValueError, match='schedule'):
    optim.schedule((1., 2.))


def test_each_parameter_learns_at_the_rate_of_its_first_matching_group():
  params = {'scene': {'grid': jnp.ones(3), 'net': jnp.ones(3)}, 'est': {'mu': jnp.ones(2)}}
  tx = optim.chain((('scene/grid', .1), ('scene/.*', .01), ('est/mu', 0.)), eps=1e-15)
  updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
  np.testing.assert_allclose(updates['scene']['grid'], -.1, rtol=1e-5)
  np.testing.assert_allclose(updates['scene']['net'], -.01, rtol=1e-5)
  np.testing.assert_allclose(updates['est']['mu'], 0.)


def test_one_group_is_plain_adam():
  params = {'scene': jnp.arange(4.)}
  ours, adam = optim.chain((('.*', .01),), b2=.99, eps=1e-8), optax.adam(.01, b2=.99, eps=1e-8)
  a, b = ours.init(params), adam.init(params)
  p = q = params
  for i in range(5):
    grads = {'scene': jnp.cos(i + jnp.arange(4.))}
    u, a = ours.update(grads, a, p)
    v, b = adam.update(grads, b, q)
    p, q = optax.apply_updates(p, u), optax.apply_updates(q, v)
  np.testing.assert_allclose(p['scene'], q['scene'], rtol=1e-5)


def test_a_parameter_without_a_group_is_named():
  with pytest.raises(ValueError, match="'est/mu'"):
    optim.chain((('scene/.*', .1),)).init({'est': {'mu': jnp.ones(1)}})


def test_clipping_bounds_the_global_norm_before_adam():
  tx = optim.chain((('.*', 1.),), clip=1., b1=0., b2=0., eps=1e3)
  params = {'a': jnp.zeros(2)}
  updates, _ = tx.update({'a': jnp.array([30., 40.])}, tx.init(params), params)
  np.testing.assert_allclose(updates['a'], [-.6e-3, -.8e-3], rtol=2e-3)


def test_a_plain_group_keeps_a_running_mean_beside_adam():
  tx = optim.chain((('mean', .25, 'sgd'), ('.*', .1)))
  params = {'mean': jnp.float32(2.), 'other': jnp.float32(0.)}
  updates, _ = tx.update({'mean': params['mean'] - 6., 'other': jnp.float32(1e-3)}, tx.init(params), params)
  np.testing.assert_allclose([updates['mean'], updates['other']], [1., -.1], rtol=1e-4)
  with pytest.raises(ValueError, match="takes one of .'adam', 'adan', 'sgd'., got 'lamb'"):
    optim.chain((('.*', .1, 'lamb'),))


def test_a_group_may_descend_by_adan_as_optax_does():
  ours, adan = optim.chain((('.*', .01, 'adan'),), eps=1e-8), optax.adan(.01, eps_root=0.)
  params = {'w': jnp.arange(1., 5.)}
  seen = []
  for tx in (ours, adan):
    at, state = params, tx.init(params)
    for _ in range(5):
      updates, state = tx.update(jax.tree.map(lambda w: w ** 2 - 3., at), state, at)
      at = optax.apply_updates(at, updates)
    seen.append(at['w'])
  np.testing.assert_allclose(*seen, rtol=1e-6)


def test_accumulated_steps_make_one_update_of_their_mean():
  tx, whole = optim.chain((('.*', 1., 'sgd'),), accumulate=2), optim.chain((('.*', 1., 'sgd'),))
  params = {'w': jnp.zeros(3)}
  state, seen = tx.init(params), []
  for g in (jnp.array([1., 2., 3.]), jnp.array([3., 0., 1.])):
    updates, state = tx.update({'w': g}, state, params)
    seen.append(updates['w'])
  np.testing.assert_array_equal(seen[0], 0.)
  want, _ = whole.update({'w': jnp.array([2., 1., 2.])}, whole.init(params), params)
  np.testing.assert_allclose(seen[1], want['w'])
