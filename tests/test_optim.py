"""Schedules and the optax chain of regex groups."""
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import prolificdreamer_sd
from jaxdreamer import optim, schedules


def test_schedules_of_config():
  assert schedules.at(.3, 100) == pytest.approx(.3)
  falling = partial(schedules.at, (1., .5, 100))
  np.testing.assert_allclose([falling(0), falling(50), falling(200)], [1., .75, .5], rtol=1e-6)
  late = partial(schedules.at, (0., 1., 50, 100))
  np.testing.assert_allclose([late(50), late(100), late(150)], [0., .5, 1.], atol=1e-6)
  with pytest.raises(ValueError, match='schedule'):
    schedules.at((1., 2.), 0)


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
  updates, _ = tx.update({'mean': params['mean'] - 6., 'other': jnp.float32(1e-3)},
                         tx.init(params), params)
  np.testing.assert_allclose([updates['mean'], updates['other']], [1., -.1], rtol=1e-4)
  with pytest.raises(ValueError, match="takes one of .'adam', 'adan', 'sgd'., got 'lamb'"):
    optim.chain((('.*', .1, 'lamb'),))


def adan(grads, *, rate, eps, b1=.98, b2=.92, b3=.99):
  """The parameters after each of `grads` [K, n] from 0 on, by Algorithm 1 of Xie et al. (2022) in
  their code's betas."""
  m = v = n = x = np.zeros(grads.shape[1])
  out, before = [], grads[0]
  for k, g in enumerate(grads, 1):
    d = g - before
    m, v, n = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * d, b3 * n + (1 - b3) * (g + b2 * d) ** 2
    x = x - rate * (m / (1 - b1 ** k) + b2 * v / (1 - b2 ** k)) / (np.sqrt(n / (1 - b3 ** k)) + eps)
    before = g
    out.append(x)
  return np.array(out)


@pytest.mark.parametrize('eps', [1e-8, .1])
def test_a_group_may_descend_by_adan_as_published(eps):
  grads = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
  tx = optim.chain((('w', .01, 'adan'), ('.*', .01)), eps=eps)
  params = {'w': jnp.zeros(4), 'other': jnp.zeros(1)}
  step, state, seen = jax.jit(tx.update), tx.init(params), []
  for g in grads:
    updates, state = step({'w': jnp.asarray(g), 'other': jnp.ones(1)}, state, params)
    params = optax.apply_updates(params, updates)
    seen.append(params['w'])
  np.testing.assert_allclose(seen, adan(grads.astype(np.float64), rate=.01, eps=eps), atol=1e-6)


@pytest.mark.parametrize('kind', ['adam', 'adan'])
@pytest.mark.parametrize('accumulate', [1, 2])
def test_particles_are_as_many_optimizers_that_know_nothing_of_each_other(kind, accumulate):
  """Each takes its turn, and the background, which all share, moves at every one. A rate that
  changes is the run's."""
  n, rate = 3, (.1, .01, 12)
  groups = (('scene/field/a', rate, kind), ('scene/.*', .05, kind), ('never', .1))
  tx = optim.chain(groups, particles=n, weight_decay=.1, accumulate=accumulate)
  rng = np.random.default_rng(1)
  params = {'scene': {'field': {'a': rng.normal(size=(n, 2)), 'b': rng.normal(size=(n, 2, 2))},
                      'background': rng.normal(size=2)}}
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  scale = {'adam': lambda: optax.scale_by_adam(b1=.9, b2=.99, eps=1e-15),
           'adan': lambda: optim.scale_by_adan(eps=1e-15)}[kind]
  alone = optax.chain(scale(), optax.add_decayed_weights(.1))
  own = [jax.tree.map(lambda x: x[i], params['scene']['field']) for i in range(n)]
  kept = [alone.init(p) for p in own]
  step, state = jax.jit(tx.update), tx.init(params)
  one = jax.jit(alone.update)
  for k in range(4 * n):
    turn, before = k % n, params['scene']
    g = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), own[0])
    grads = {'scene': {'field': jax.tree.map(lambda x, full: jnp.zeros_like(full).at[turn].set(x),
                                             g, before['field']),
                       'background': jnp.ones(2)}}
    for _ in range(accumulate):
      updates, state = step(grads, state, params)
      params = optax.apply_updates(params, updates)
    u, kept[turn] = one(g, kept[turn], own[turn])
    rates = {'a': schedules.at(rate, k), 'b': .05}
    own[turn] = {name: own[turn][name] - rates[name] * u[name] for name in u}
    for i in range(n):
      for name in own[i]:
        now, was = params['scene']['field'][name][i], before['field'][name][i]
        np.testing.assert_allclose(now, own[i][name], rtol=2e-5, atol=2e-6)
        assert (i == turn) == bool(np.any(now != was))
    assert np.all(params['scene']['background'] != before['background'])


def test_prolificdreamers_lora_is_warmed_up_over_its_first_500_steps():
  groups = prolificdreamer_sd.get_config().optim.groups
  rate = partial(schedules.at, next(rate for pattern, rate, *_ in groups
                                    if re.fullmatch(pattern, 'est/unet/to_q/kernel/up')))
  np.testing.assert_allclose([rate(0), rate(250), rate(500), rate(9000)], [0., 5e-5, 1e-4, 1e-4],
                             atol=1e-9)


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
