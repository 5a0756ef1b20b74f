"""The training of the prior: its schedule, its loss in closed form, and a run that goes on as if unbroken."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdreamer import cameras
from jaxdreamer.nn.clip import CLIPTextModel
from jaxdreamer.nn.unet import UNet2DCondition
from jaxdreamer.toybox import files, network, pool, train_prior, world

KEY = jax.random.key(0)
BATCH, FRESH, RING = 8, 2, 16


def test_the_rate_warms_up_stays_and_falls():
  rate = train_prior.schedule(4000, .25, 2.)
  np.testing.assert_allclose([rate(i) for i in (0, 250, 500, 2999, 3500, 4000)], [0., 1., 2., 2., 1.02, .04], atol=1e-3)


def test_the_loss_of_a_black_guess_is_the_power_of_picture_and_geometry(monkeypatch):
  monkeypatch.setattr(network, 'predict', lambda params, z_t, t, text, vector: (0. * z_t, jnp.zeros((500, *network.GEOMETRY))))
  monkeypatch.setattr(network, 'embed', lambda params, ids: ids)
  z, seen = 2. * jnp.ones((500, *network.LATENT)), 3. * jnp.ones((500, *network.GEOMETRY))
  ids, vector = jnp.zeros((500, world.LENGTH), jnp.int32), jnp.zeros((500, network.CAMERA))
  np.testing.assert_allclose(train_prior.loss(None, KEY, z, ids, vector, seen), 4. + 9. * train_prior.GEOMETRY_WEIGHT, rtol=1e-5)


def test_times_are_drawn_with_their_density(monkeypatch):
  monkeypatch.setattr(network, 'predict', lambda params, z_t, t, text, vector: (
    t[:, None, None, None] * jnp.ones_like(z_t), jnp.zeros((500, *network.GEOMETRY))))
  monkeypatch.setattr(network, 'embed', lambda params, ids: ids)
  ids, vector = jnp.zeros((500, world.LENGTH), jnp.int32), jnp.zeros((500, network.CAMERA))
  found = train_prior.loss(None, KEY, jnp.zeros((500, *network.LATENT)), ids, vector, jnp.zeros((500, *network.GEOMETRY)))
  np.testing.assert_allclose(found, 8. / 15., rtol=2e-3)         # the integral of t^2 / (2 sqrt(1 - t)) over [0, 1]


def test_the_step_does_not_depend_on_the_scale_of_the_gradient():
  """The lowest level's gradients are of the size of 1e-8: with optax's eps, as large, it would stay as it began."""
  params = {'time_emb_proj': {'kernel': jnp.ones((8, 6))}, 'conv': {'kernel': jnp.ones((3, 3, 4, 4))}}
  grads = jax.tree.map(lambda p: .01 * jax.random.normal(KEY, p.shape), params)
  tx = train_prior.optimizer(4, .5, 1.)
  loud, quiet = (tx.update(jax.tree.map(lambda g: scale * g, grads), tx.update(
    jax.tree.map(lambda g: scale * g, grads), tx.init(params), params)[1], params)[0] for scale in (1., 1e-7))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), loud, quiet)
  assert all(abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(quiet))


def test_muon_moves_the_matrices_through_which_words_and_cameras_act_and_adam_the_rest():
  weights = jax.eval_shape(network.init, KEY)
  state = train_prior.optimizer(100, .5, 1.).init(jax.tree.map(lambda s: jnp.zeros(s.shape), weights))
  sizes = {name: sum(v.size for v in jax.tree.leaves(s.inner_state[0].mu)) for name, s in state[1].inner_states.items()}
  assert sum(sizes.values()) == sum(v.size for v in jax.tree.leaves(weights))
  assert 0 < sizes['muon'] < .3 * sizes['adam']


def test_captions_and_cameras_are_dropped_as_often_as_said():
  source = train_prior.fill(KEY, 0, fresh=FRESH, ring=RING)
  z, ids, vector, seen = jax.jit(lambda key: train_prior.examples(key, source, 400))(KEY)
  blank = (ids == jnp.asarray(world.tokenize(''))[None]).all(1)
  assert z.shape == (400, *network.LATENT) and abs(z).max() <= 1.
  np.testing.assert_allclose([blank.mean(), (vector != 0.).any(1).mean()],
                             [train_prior.CAPTION_DROPPED, train_prior.CAMERA_KEPT], atol=.07)
  mask, normal = jnp.split(seen, [network.PATCH ** 2], axis=-1)
  length = jnp.linalg.norm(normal.reshape(*normal.shape[:3], -1, 3), axis=-1)
  np.testing.assert_allclose(length, mask, atol=.02)             # unit normals where the object is, none elsewhere


def noise(key, n, *, size):
  """In place of renders, which take long to compile."""
  k_rgb, k_mask, k_item, k_camera = jax.random.split(key, 4)
  bits = lambda k, *shape: jax.random.bits(k, shape, jnp.uint8)
  return pool.Pool(bits(k_rgb, n, size, size, 3), bits(k_mask, n, size, size), jnp.zeros((n, size, size, 3), jnp.int8),
                   jax.vmap(world.sample)(jax.random.split(k_item, n)),
                   jax.vmap(cameras.sample)(jax.random.split(k_camera, n)))


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch):
  small = dataclasses.replace(network.UNET, block_out_channels=(16,), norm_num_groups=4,
                              down_block_types=('CrossAttnDownBlock2D',), up_block_types=('CrossAttnUpBlock2D',))
  monkeypatch.setattr(network, 'unet', UNet2DCondition(small))
  monkeypatch.setattr(network, 'text_model', CLIPTextModel(dataclasses.replace(network.TEXT, num_hidden_layers=1)))
  monkeypatch.setattr(pool, 'batch', noise)
  tx = train_prior.optimizer(4, .5, 1e-3)
  mesh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
  step = jax.jit(train_prior.make_step(tx, n=BATCH, fresh=FRESH, ring=RING, sharded=NamedSharding(mesh, PartitionSpec('data'))))
  params = jax.jit(lambda key: network.init(key))(KEY)           # not the cached one of the whole network
  begin = jnp.int32(0), params, params, tx.init(params)

  def advance(state, n):
    carry, values = ((*state, KEY), train_prior.fill(KEY, int(state[0]), fresh=FRESH, ring=RING)), []
    carry = jax.device_put(carry, NamedSharding(mesh, PartitionSpec()))          # as the step returns it: one compilation
    for _ in range(n):
      carry, value = step(carry)
      values.append(float(value))
    return carry[0][:-1], values

  whole, values = advance(begin, 4)
  half, first = advance(begin, 2)
  path = str(tmp_path / 'state.safetensors')
  files.save(path, half)
  last, second = advance(files.restore(path, begin), 2)
  assert first + second == values
  jax.tree.map(np.testing.assert_array_equal, last, whole)


def test_a_start_with_other_settings_is_noted_and_one_with_the_same_is_not(tmp_path, monkeypatch):
  flags = {name: type('Flag', (), {'value': 96}) for name in ('images', 'decay', 'batch', 'reuse', 'rate', 'seed')}
  class Flags(dict):
    workdir = str(tmp_path)
  monkeypatch.setattr(train_prior, 'FLAGS', Flags(flags))
  assert len(train_prior.note_start(0)) == 1 == len(train_prior.note_start(32))
  flags['rate'].value = 2
  lines = train_prior.note_start(64)
  assert len(lines) == 2 and lines[1].startswith('from image 64:') and '--rate=2' in lines[1]
  flags['rate'].value = 3
  assert train_prior.note_start(96) == lines                     # nothing was left to train
