"""Many small arrays as one vector: nothing is lost or moved, an optimizer does to the vector what
it does to its arrays, and what a mesh may cut, or is large or few, stays by itself."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxdreamer import guard, layout, optim, packing
from jaxdreamer.types import TrainState

N = packing.MANY


def many(seed=0, *, n=N):
  """A LoRA of n / 2 matrices beside a large array, a kernel that a mesh may cut, and a count."""
  rng = np.random.default_rng(seed)
  low = {f'layer_{i}': {'down': rng.normal(size=(3, i % 5 + 1)), 'up': rng.normal(size=(2, 4))}
         for i in range(n // 2)}
  tree = {'est': low, 'scene': {'large': rng.normal(size=packing.SMALL + 1),
                                'kernel': rng.normal(size=(8, 4))}}
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree) | {'count': jnp.int32(3)}


def by_end(name):
  return name.rpartition('/')[2]


@pytest.mark.parametrize('label', [packing.one_vector, by_end])
def test_unpacked_is_what_was_packed(label):
  tree = many()
  pack = packing.packed(tree, label=label)
  assert len(jax.tree.leaves(pack)) == 3 + (2 if label is by_end else 1)
  jax.tree.map(np.testing.assert_array_equal, packing.unpacked(pack, many(1), label=label), tree)


def test_the_vector_is_all_of_them_in_their_order():
  tree = many()
  vector = packing.packed(tree).small['']
  np.testing.assert_array_equal(vector, np.concatenate([x.ravel() for x in
                                                        jax.tree.leaves(tree['est'])]))


def test_a_label_of_none_and_what_may_be_cut_or_is_large_stay_by_themselves():
  tree = many(n=2 * N)
  pack = packing.packed(tree, label=lambda name: None if name.endswith('up') else 'rest')
  assert set(pack.small) == {'rest'}
  kept = pack.whole
  assert all(x['down'] is None and x['up'] is not None for x in kept['est'].values())
  assert kept['scene']['large'] is tree['scene']['large']
  assert kept['scene']['kernel'] is tree['scene']['kernel'] and kept['count'] is tree['count']


def test_few_are_left_as_they_are():
  tree = many(n=N - 2)
  assert packing.packed(tree) is tree and packing.unpacked(tree, tree) is tree


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('kind', ['adam', 'adan', 'sgd'])
def test_an_optimizer_does_to_vectors_what_it_does_to_arrays(monkeypatch, kind, accumulate):
  """Two groups, each with its rate, and a bound of the norm of all; it keeps few arrays."""
  groups = (('est/.*/up', .1, kind), ('.*', (.01, .02, 9)))
  params = {name: x for name, x in many().items() if name != 'count'}

  def after():
    tx = optim.chain(groups, weight_decay=.1, clip=100., eps=1e-8, accumulate=accumulate)
    now, state = params, tx.init(params)
    step = jax.jit(tx.update)
    for i in range(4):
      updates, state = step(jax.tree.map(lambda x, i=i: jnp.cos(x + i), now), state, now)
      now = optax.apply_updates(now, updates)
    return now, state
  ours, kept = after()
  monkeypatch.setattr(packing, 'MANY', 10 ** 6)
  one_by_one, kept_apart = after()
  assert len(jax.tree.leaves(kept)) < 30 < N < len(jax.tree.leaves(kept_apart))
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(one_by_one), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  assert not np.allclose(ours['est']['layer_0']['up'], params['est']['layer_0']['up'], atol=1e-3)


def test_particles_are_not_packed():
  """An optimizer of several tells them apart by an array's first axis."""
  params = {'scene': {'field': {f'a{i}': jnp.ones((3, 2)) for i in range(N)},
                      'rest': {f'b{i}': jnp.ones(2) for i in range(N)}}}
  tx = optim.chain((('.*', .1),), particles=3)
  grads = jax.tree.map(jnp.zeros_like, params)
  grads['scene']['field']['a0'] = grads['scene']['field']['a0'].at[1].set(1.)
  updates, state = tx.update(grads, tx.init(params), params)
  np.testing.assert_allclose(updates['scene']['field']['a0'],
                             [[0., 0.], [-.1, -.1], [0., 0.]], atol=1e-6)
  assert 2 * N < len(jax.tree.leaves(state)) < 2 * N + 10    # m and v of each, and of one vector


@pytest.mark.parametrize('options', [{'clip': .1}, {'accumulate': 2, 'clip': .1}], ids=str)
def test_beside_what_a_mesh_cuts_the_updates_are_those_of_one_device(options):
  """The kernel's part and the vector are one update, bounded by the norm of both."""
  mesh = jax.make_mesh((1, 4), ('data', 'model'), axis_types=(AxisType.Auto,) * 2)
  params, *grads = ({name: x for name, x in many(seed).items() if name != 'count'}
                    for seed in range(3))
  tx = optim.chain((('.*', .1),), eps=1e-3, **options)
  at, kept = (layout.specs(tree, mesh) for tree in (params, jax.eval_shape(tx.init, params)))
  assert at['scene']['kernel'] == P('model', None)

  def local(grads, state, params):
    updates, state = tx.update(grads, state, params)
    return updates, state, optim.norm(grads), guard.finite((updates, state))
  cut = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(at, kept, at),
                              out_specs=(at, kept, P(), P())))
  one, states = jax.jit(local), [tx.init(params)] * 2
  for g in grads:
    found = [step(g, state, params) for step, state in zip((one, cut), states)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *found)
    states = [state for _, state, *_ in found]
  assert found[1][3] and np.abs(found[1][0]['scene']['kernel']).max() > .01
  bad = jax.tree.map(lambda x: x, grads[0])
  bad['scene']['kernel'] = bad['scene']['kernel'].at[7, 3].set(jnp.nan)  # of the last device alone
  assert not cut(bad, states[1], params)[3]


def test_the_norm_is_that_of_all_arrays():
  tree = {name: x for name, x in many().items() if name != 'count'}
  np.testing.assert_allclose(optim.norm(tree), optax.tree.norm(tree), rtol=1e-6)


@pytest.mark.parametrize('where', [None, 'params', 'opt', 'large'])
def test_the_guard_of_many_arrays_keeps_all_or_none(where):
  """A number that is not finite in one of them, or in what the optimizer keeps, changes nothing."""
  params = {name: x for name, x in many().items() if name != 'count'}
  state = TrainState(jnp.int32(0), params, {'nu': jnp.zeros(3)}, jax.random.key(0))

  def local_step(state, prior, text, ids):
    later = jax.tree.map(lambda x: x + 1., state.params)
    if where == 'params':
      later['est']['layer_7']['down'] = later['est']['layer_7']['down'].at[2, 1].set(jnp.nan)
    if where == 'large':
      later['scene']['large'] = later['scene']['large'].at[5].set(jnp.inf)
    opt = {'nu': jnp.full(3, jnp.inf if where == 'opt' else 2.)}
    return dataclasses.replace(state, step=state.step + 1, params=later, opt=opt), {'loss': 1.}
  after, info = jax.jit(guard.guarded(local_step))(state, None, None, None)
  good = where is None
  assert int(after.step) == 1 and info['finite'] == good
  expected = (jax.tree.map(lambda x: x + 1., params), {'nu': jnp.full(3, 2.)}) if good else (
    state.params, state.opt)
  jax.tree.map(np.testing.assert_array_equal, (after.params, after.opt), expected)
