"""However many devices there are, and however they share arrays: the same numbers, and no more
said between them, or to the host, than is meant."""
import hashlib
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from benchmarks import scaling
from configs import toybox
from jaxdreamer import (
  build,
  checkpoints,
  doctor,
  guard,
  layout,
  optim,
  parallel,
  processes,
  seeds,
  training,
)
from jaxdreamer.priors.gaussian import gaussian

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = {'prior.name': 'test_devices:linear', 'render.background': 'white',
         'scene.name': 'hashgrid', 'scene.hashgrid.levels': 2, 'scene.hashgrid.log2_table': 9,
         'render.samples': 4, 'render.fine': 0, 'sampling.views': 8,
         'optim.groups': (('scene/.*', .01),),
         # the direction of Adam's step for a vanishing gradient is no measure
         'optim.eps': 1e-3, 'optim.clip': .05}


def linear(key, prompt, path):
  """What its eps is, one array of the table decides; prompts differ by their length."""
  kernel = .3 * jax.random.normal(key, (3 * 8, 3 * 8))
  eps = lambda weights, z_t, t, text, camera: (
    z_t.reshape(len(z_t), 8, -1) @ weights['kernel']).reshape(z_t.shape)
  known = gaussian(jnp.full((8, 8, 3), .5), std=.3)
  embed = lambda weights, prompt, negative: known.embed(prompt, negative)._replace(
    pooled=jnp.full(1, len(prompt) / 20))
  return known.replace(weights={'kernel': kernel}, eps_fn=eps, embed_fn=embed)


def mesh_of(data, model):
  return jax.make_mesh((data, model), ('data', 'model'), axis_types=(AxisType.Auto,) * 2,
                       devices=jax.devices()[:data * model])


def small(data, model=1, **options):
  """(training, its mesh), of so many devices."""
  config = toybox.get_config()
  with config.unlocked():
    config.update_from_flattened_dict(SMALL | {'mesh.data': data, 'mesh.model': model} | options)
  mesh = build.make_mesh(config)
  made = build.training(config, mesh)
  return made._replace(prior=processes.place(made.prior, mesh)), mesh


def advanced(data, model=1, *, steps, **options):
  """The state after so many steps."""
  made, mesh = small(data, model, **options)
  state = processes.place(made.init(seeds.key(0)), mesh)
  for _, after, info in made.fit(state, steps=steps):
    # as the loop does: where devices are more than cores, calls in flight starve each other
    jax.block_until_ready(info)
    last = after
  return last


def apart(state, other):
  """The largest difference of parameters over the largest parameter."""
  one, two = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(s.params))])
              for s in (state, other))
  return np.abs(one - two).max() / np.abs(one).max()


def bits(tree):
  plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
  return [np.asarray(plain(x)).tobytes() for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize(('name', 'shape', 'spec'), [
  ('weights/unet/mid/kernel', (3, 3, 8, 5), P(None, None, 'model', None)),
  ('0/mu/scene/field/tables/7', (64, 2), P('model', None)),
  ('weights/unet/mid/kernel', (3, 3, 6, 8), P()), ('weights/unet/mid/bias', (8,), P()),
  ('scene/field/kernel', (), P()), ('scene/field/grid_8', (8, 8, 8, 4), P())])
def test_an_array_is_cut_where_the_table_says_so_and_its_axis_divides(name, shape, spec):
  assert layout.spec(name, shape, mesh_of(1, 4)) == spec
  assert layout.spec(name, shape, build.make_mesh(toybox.get_config())) == P()


@pytest.mark.parametrize('ordered', [True, False])
def test_gradients_come_back_as_the_mean_over_devices_in_the_parts_of_their_parameters(ordered):
  mesh, axes = mesh_of(2, 2), ('data', 'model')
  params = {'kernel': jnp.zeros((3, 4, 2)), 'bias': jnp.zeros(3)}
  each = {name: jax.random.normal(jax.random.key(i), (4, *x.shape))
          for i, (name, x) in enumerate(params.items())}
  specs = layout.specs(params, mesh)
  assert specs['kernel'] == P(None, 'model', None)
  mean = lambda grads, params: parallel.averages(
    jax.tree.map(lambda g: g[0], grads), {'a': grads['bias'][0, 0]}, params, axes=axes,
    ordered=ordered)
  got, info = jax.jit(jax.shard_map(mean, mesh=mesh, in_specs=(P(axes), specs),
                                    out_specs=(specs, P())))(each, params)
  for name, want in each.items():
    np.testing.assert_allclose(got[name], want.mean(0), atol=1e-6)
  np.testing.assert_allclose(info['a'], each['bias'][:, 0].mean(), atol=1e-6)


@pytest.mark.parametrize('options', [{'clip': .1}, {'accumulate': 2, 'clip': .1},
                                     {'particles': 2}], ids=str)
@pytest.mark.parametrize('kind', ['adam', 'adan'])
def test_the_optimizer_of_parts_makes_the_updates_of_the_whole(kind, options):
  """Norms and whose turn it is are of all parts; the one nonzero gradient of particle 1 lies in a
  part of one device."""
  tx = optim.chain((('scene/.*', .1, kind),), eps=1e-3, **options)
  draw = lambda i: {'scene': {'field': {'kernel': jax.random.normal(jax.random.key(i), (2, 8, 3)),
                                        'bias': jax.random.normal(jax.random.key(i + 9), (2, 3))}}}
  params = draw(0)
  turn = lambda g, i: g if 'particles' not in options else jax.tree.map(
    lambda x: x.at[i % 2].set(0.), g)
  grads = [turn(draw(1 + i), i) for i in range(4)]
  if 'particles' in options:
    alone = grads[0]['scene']['field']
    alone = {'kernel': jnp.zeros((2, 8, 3)).at[1, 7, 0].set(1.), 'bias': 0. * alone['bias']}
    grads[0] = {'scene': {'field': alone}}

  def run(update):
    state, out = tx.init(params), []
    for g in grads:
      updates, state = update(g, state, params)
      out.append(updates)
    return out

  mesh, opt = mesh_of(1, 4), jax.eval_shape(tx.init, params)
  at, kept = layout.specs(params, mesh), layout.specs(opt, mesh)
  assert at['scene']['field']['kernel'] == P(None, 'model', None)
  cut = jax.jit(jax.shard_map(tx.update, mesh=mesh, in_specs=(at, kept, at),
                              out_specs=(at, kept)))
  for a, b in zip(run(jax.jit(tx.update)), run(cut)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), a, b)
  np.testing.assert_allclose(
    jax.jit(jax.shard_map(optim.norm, mesh=mesh, in_specs=(at,), out_specs=P()))(grads[1]),
    optax.tree.norm(grads[1]), rtol=1e-6)


@pytest.mark.slow
def test_devices_that_share_arrays_change_nothing():
  """Three steps on 2 x 2 and 1 x 4, with clipping and two steps to an update; and what they
  hold."""
  want = advanced(1, steps=3)
  for data, model in ((2, 2), (1, 4)):
    got = advanced(data, model, steps=3)
    assert apart(want, got) < 1e-5
    cut = [x for x in jax.tree.leaves(got) if not x.sharding.is_fully_replicated]
    assert len(cut) == 3 * 4               # parameters and both moments of two tables and kernels
    assert all(model * x.addressable_data(0).size == x.size for x in cut)


def compiled(data, model=1, **options):
  made, mesh = small(data, model, **options)
  programs, shapes = training.lowered(seeds.key(0), made, mesh)
  return programs[0][1].compile(), shapes


@pytest.mark.slow
@pytest.mark.parametrize('accelerator', [True, False])
def test_a_step_communicates_once(accelerator, monkeypatch):
  """All gradients and the info in one vector; on CPUs, a row of it for each device."""
  if accelerator:
    monkeypatch.setattr(processes, 'on_cpus', lambda mesh: False)
  step, (state, *_) = compiled(4)
  seen, = scaling.collectives(step.as_text())
  numbers = sum(x.size for x in jax.tree.leaves(state.params))
  assert seen.kind == 'all-reduce' and seen.devices == 4
  extra = seen.bytes / 4 / (1 if accelerator else 4) - numbers
  assert 0 < extra < 16                          # the scalars of info


@pytest.mark.slow
def test_devices_that_share_arrays_hold_their_part_and_gather_what_is_cut(monkeypatch):
  monkeypatch.setattr(processes, 'on_cpus', lambda mesh: False)
  (one, shapes), (four, cut) = compiled(1), compiled(1, 4)
  kinds = [seen.kind for seen in scaling.collectives(four.as_text())]
  assert kinds.count('all-gather') == 4 + 1 and kinds.count('reduce-scatter') == 4
  assert kinds.count('all-reduce') <= 3          # whole gradients and info; parts; their norm
  each, whole = (x.memory_analysis().argument_size_in_bytes for x in (four, one))
  assert each < .3 * whole and abs(each - layout.bytes_each(cut[:2])) < 4096
  said = doctor.shared(cut[:2], mesh_of(1, 4))['a device holds']
  assert f'{layout.bytes_each(cut[:2]) / 2 ** 20:.1f} of ' in said
  assert doctor.shared(shapes[:2], mesh_of(4, 1)) == {}


@pytest.mark.slow
@pytest.mark.parametrize('model', [1, 2])
def test_no_step_of_a_loop_brings_anything_to_a_device_or_back_unasked(model, tmp_path):
  """Prompts that change at each step are the only ones that are put there, and info alone is
  fetched, by device_get."""
  (tmp_path / 'corpus').write_text('a red cube\na blue cube\na red cone\na blue cone\n')
  made, mesh = small(2, model, **{'corpus.path': str(tmp_path / 'corpus'), 'corpus.prompts': 4,
                                  'corpus.store': str(tmp_path / 'store'),
                                  'scene.name': 'hyper_ingp', 'scene.hyper_ingp.levels': 2,
                                  'scene.hyper_ingp.log2_table': 9, 'scene.hyper_ingp.text': 1})
  state = processes.place(made.init(seeds.key(0)), mesh)
  calls = made.fit(state, steps=4)
  next(calls)                                    # compiles
  with jax.transfer_guard('disallow'):
    for _, _, info in calls:
      assert np.isfinite(jax.device_get(info)['gradient_norm'])


def save_and_restore(folder, state, like):
  with checkpoints.manager(folder, keep=1) as saved:
    checkpoints.save(saved, 50, state, {})
    saved.wait_until_finished()
    return checkpoints.restore(saved, like)[0]


def eight(folder):
  """In a process of eight devices: fifty steps on 1, 2, 4 and 8 of them, and on 2 x 4; and what was
  saved on some, restored on others."""
  grid = {'scene.name': 'voxels', 'scene.voxels.levels': (4,)}           # compiles in no time
  states = {shape: advanced(*shape, steps=50, **grid)
            for shape in ((1, 1), (2, 1), (4, 1), (8, 1), (2, 4))}
  for shape, state in states.items():
    assert apart(states[1, 1], state) < 1e-5, (shape, apart(states[1, 1], state))
  for i, (source, target) in enumerate((((8, 1), (1, 1)), ((1, 1), (8, 1)), ((2, 4), (1, 1)),
                                        ((8, 1), (2, 4)))):
    like = states[target]
    got = save_and_restore(folder / str(i), states[source], like)
    assert bits(got) == bits(states[source]), (source, target)
    assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(got),
                                                        jax.tree.leaves(like)))
  print('all equal')


@pytest.mark.slow
def test_one_two_four_and_eight_devices_agree_after_fifty_steps_and_restore_each_others_states(
    tmp_path):
  done = subprocess.run([sys.executable, __file__, tmp_path], cwd=ROOT, text=True,
                        capture_output=True, env=os.environ | {
                          'JAX_NUM_CPU_DEVICES': '8', 'JAX_PLATFORMS': 'cpu',
                          'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'})
  assert done.returncode == 0 and 'all equal' in done.stdout, done.stderr


def test_arrays_that_are_shared_come_to_the_devices_from_the_hosts_memory():
  with processes.in_host_memory(mesh_of(2, 2)):
    assert jnp.ones(3).devices().pop().platform == 'cpu'
  kernel = np.arange(24.).reshape(4, 6)
  there = processes.place({'kernel': kernel, 'bias': kernel[0]}, mesh_of(2, 2))
  assert there['bias'].sharding.is_fully_replicated
  assert {hashlib.sha256(np.asarray(s.data)).digest() for s in there['kernel'].addressable_shards
          } == {hashlib.sha256(half).digest() for half in (kernel[:2].astype(np.float32),
                                                           kernel[2:].astype(np.float32))}


if __name__ == '__main__':
  eight(pathlib.Path(sys.argv[1]))


@pytest.mark.parametrize('place', [None, 0, 5])
def test_a_number_that_one_device_holds_alone_is_seen_to_be_bad_by_all(place):
  held = jnp.ones(6) if place is None else jnp.ones(6).at[place].set(jnp.nan)
  ask = jax.shard_map(lambda cut, whole: guard.finite({'cut': cut, 'whole': whole}),
                      mesh=mesh_of(2, 2), in_specs=(P('model'), P()), out_specs=P())
  assert jax.jit(ask)(held, jnp.ones(3)) == (place is None)
  assert not jax.jit(ask)(held, jnp.array([1., jnp.inf, 0.]))
