"""The training of the prior: its schedule, its loss in closed form, and a run that goes on as if unbroken."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdreamer import cameras
from jaxdreamer.nn.unet import UNet2DCondition
from jaxdreamer.toybox import files, network, pool, train_prior, world

KEY = jax.random.key(0)
BATCH, FRESH, RING = 8, 2, 16


def test_the_rate_warms_up_stays_and_falls():
  rate = train_prior.schedule(4000, .25, 2.)
  np.testing.assert_allclose([rate(i) for i in (0, 250, 500, 2999, 3500, 4000)], [0., 1., 2., 2., 1.02, .04], atol=1e-3)


def test_the_loss_of_a_black_guess_is_the_mean_of_alpha_times_its_power(monkeypatch):
  monkeypatch.setattr(network, 'denoise', lambda params, z_t, t, text, vector: 0. * z_t)
  monkeypatch.setattr(network, 'embed', lambda params, ids: ids)
  z = 2. * jnp.ones((500, *network.LATENT))
  found = train_prior.loss(None, KEY, z, jnp.zeros((500, world.LENGTH), jnp.int32), jnp.zeros((500, network.CAMERA)))
  t = jnp.linspace(0., 1., 10_001)
  np.testing.assert_allclose(found, 4. * jnp.mean(network.SCHEDULE.alpha(t)), rtol=2e-3)


def test_captions_and_cameras_are_dropped_as_often_as_said():
  source = train_prior.fill(KEY, 0, fresh=FRESH, ring=RING)
  z, ids, vector = jax.jit(lambda key: train_prior.examples(key, source, 400))(KEY)
  blank = (ids == jnp.asarray(world.tokenize(''))[None]).all(1)
  assert z.shape == (400, *network.LATENT) and abs(z).max() <= 1.
  np.testing.assert_allclose([blank.mean(), (vector != 0.).any(1).mean()],
                             [train_prior.CAPTION_DROPPED, train_prior.CAMERA_KEPT], atol=.07)


def noise(key, n, *, size):
  """In place of renders, which take long to compile."""
  k_rgb, k_mask, k_item, k_camera = jax.random.split(key, 4)
  bits = lambda k, *shape: jax.random.bits(k, shape, jnp.uint8)
  return pool.Pool(bits(k_rgb, n, size, size, 3), bits(k_mask, n, size, size), jax.vmap(world.sample)(jax.random.split(k_item, n)),
                   jax.vmap(cameras.sample)(jax.random.split(k_camera, n)))


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch):
  small = dataclasses.replace(network.UNET, block_out_channels=(16, 16, 32), norm_num_groups=4)
  monkeypatch.setattr(network, 'unet', UNet2DCondition(small))
  monkeypatch.setattr(pool, 'batch', noise)
  tx = optax.adamw(1e-3)
  mesh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
  step = jax.jit(train_prior.make_step(tx, n=BATCH, fresh=FRESH, ring=RING, sharded=NamedSharding(mesh, PartitionSpec('data'))))
  params = jax.jit(lambda key: network.init(key))(KEY)           # not the cached one of the whole network
  begin = jnp.int32(0), params, params, tx.init(params)

  def advance(state, n):
    carry, values = ((*state, KEY), train_prior.fill(KEY, int(state[0]), fresh=FRESH, ring=RING)), []
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
  flags = {name: type('Flag', (), {'value': 1}) for name in ('images', 'decay', 'batch', 'reuse', 'rate', 'seed')}
  class Flags(dict):
    workdir = str(tmp_path)
  monkeypatch.setattr(train_prior, 'FLAGS', Flags(flags))
  assert len(train_prior.note_start(0)) == 1 == len(train_prior.note_start(32))
  flags['rate'].value = 2
  lines = train_prior.note_start(64)
  assert len(lines) == 2 and lines[1].startswith('from image 64:') and '--rate=2' in lines[1]
