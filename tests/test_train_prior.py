"""The training of the prior: its schedule, its loss in closed form, and a run that goes on as if
unbroken."""
import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdreamer import cameras
from jaxdreamer.nn.clip import CLIPTextModel
from jaxdreamer.nn.unet import UNet2DCondition
from jaxdreamer.toybox import (
  files,
  fit,
  geometry,
  meaning,
  network,
  render_buffer,
  train_prior,
  trainer,
  world,
)

KEY = jax.random.key(0)
BATCH, FRESH, RING = 8, 2, 16


BLANK = {name: jnp.full(500, -1) for name in geometry.HEADS}


def test_the_rate_warms_up_stays_and_falls():
  pace = lambda i, progress: fit.pace(i, progress, warm_up=500, fraction=.25, last=.02)
  np.testing.assert_allclose([pace(*at) for at in ((0, 0.), (250, .06), (500, .12), (3000, .75),
                                                   (3500, .875), (4000, 1.))],
                             [0., .5, 1., 1., .51, .02], atol=1e-6)
  np.testing.assert_allclose([fit.decay(p, .4) for p in (0., .6, .8, 1., 1.1)],
                             [1., 1., .5, 0., 0.], atol=1e-6)


def guess(monkeypatch, x0_hat):
  """A network that predicts `x0_hat(z_t, t)` and no geometry, whatever it is told; text rows are
  zeros."""
  monkeypatch.setattr(network, 'predict', lambda params, z_t, t, text, vector, dtype: (
    x0_hat(z_t, t), jnp.zeros((500, *network.GEOMETRY))))
  monkeypatch.setattr(network, 'embed', lambda params, ids: jnp.zeros((500, 1, 2)))
  return {'meaning': {name: {'kernel': jnp.ones((2, n)), 'bias': jnp.zeros(n)}
                      for name, n in geometry.HEADS.items()}}


def errors(params, z, seen, classes=BLANK, **options):
  ids, vector = jnp.zeros((500, world.LENGTH), jnp.int32), jnp.zeros((500, network.CAMERA))
  return float(train_prior.loss(params, KEY, z, ids, vector, seen, classes, **options))


@pytest.mark.slow
def test_the_loss_of_a_black_guess_is_the_power_of_picture_and_geometry(monkeypatch):
  params = guess(monkeypatch, lambda z_t, t: 0. * z_t)
  z, seen = 2. * jnp.ones((500, *network.LATENT)), 3. * jnp.ones((500, *network.GEOMETRY))
  np.testing.assert_allclose(errors(params, z, seen), 4. + 9. * train_prior.GEOMETRY_WEIGHT,
                             rtol=1e-5)


@pytest.mark.slow
def test_the_objects_pixels_weigh_more_in_a_mean_of_one(monkeypatch):
  """An error of 4 on the object, which is the left upper pixel of each patch, and of 1
  elsewhere."""
  params = guess(monkeypatch, lambda z_t, t: 0. * z_t)
  seen = jnp.zeros((500, *network.GEOMETRY)).at[..., 0].set(1.)
  z = jnp.ones((500, *network.LATENT)).at[..., :3].set(2.)
  geometry_part = train_prior.GEOMETRY_WEIGHT / network.GEOMETRY[-1]
  for emphasis in (0., .5, 1.):
    w = 1. + train_prior.OBJECT_WEIGHT * emphasis
    np.testing.assert_allclose(errors(params, z, seen, emphasis=emphasis) - geometry_part,
                               (4. * w + 15.) / (w + 15.), rtol=1e-5)


def test_what_the_caption_says_is_read_off_the_pooled_text_where_there_is_a_caption(monkeypatch):
  """Heads that know nothing lose the logarithm of the number of classes each; captions that are
  left out lose nothing."""
  params = guess(monkeypatch, lambda z_t, t: 0. * z_t)
  z, seen = jnp.zeros((500, *network.LATENT)), jnp.zeros((500, *network.GEOMETRY))
  classes = {name: jnp.where(jnp.arange(500) % 2 == 0, -1, 1) for name in geometry.HEADS}
  expected = meaning.WEIGHT * sum(np.log(n) for n in geometry.HEADS.values()) / 2.
  np.testing.assert_allclose(errors(params, z, seen, classes), expected, rtol=1e-5)
  params['meaning']['relation']['bias'] = jnp.array([0., 1e3, 0.])
  sure = expected - meaning.WEIGHT * np.log(geometry.HEADS['relation']) / 2.
  np.testing.assert_allclose(errors(params, z, seen, classes), sure, rtol=1e-5)


def test_times_are_drawn_with_their_density(monkeypatch):
  params = guess(monkeypatch, lambda z_t, t: t[:, None, None, None] * jnp.ones_like(z_t))
  found = errors(params, jnp.zeros((500, *network.LATENT)), jnp.zeros((500, *network.GEOMETRY)))
  # the integral of t^2 / (2 sqrt(1 - t)) over [0, 1]
  np.testing.assert_allclose(found, 8. / 15., rtol=2e-3)


@pytest.mark.slow
def test_the_step_does_not_depend_on_the_scale_of_the_gradient():
  """The lowest level's gradients are of the size of 1e-8: with optax's eps, as large, it would stay
  as it began."""
  params = {'time_emb_proj': {'kernel': jnp.ones((8, 6))},
            'conv': {'kernel': jnp.ones((3, 3, 4, 4))}}
  grads = jax.tree.map(lambda p: .01 * jax.random.normal(KEY, p.shape), params)
  tx = train_prior.optimizer()
  loud, quiet = (tx.update(jax.tree.map(lambda g: scale * g, grads), tx.update(
    jax.tree.map(lambda g: scale * g, grads), tx.init(params), params)[1], params)[0]
                 for scale in (1., 1e-7))
  chex.assert_trees_all_close(loud, quiet, rtol=1e-3, atol=1e-6)
  assert all(abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(quiet))


def test_muon_moves_the_matrices_through_which_words_and_cameras_act_and_adam_the_rest():
  weights = jax.eval_shape(network.init, KEY)
  state = train_prior.optimizer().init(jax.tree.map(lambda s: jnp.zeros(s.shape), weights))
  sizes = {name: sum(v.size for v in jax.tree.leaves(s.inner_state[0].mu))
           for name, s in state[1].inner_states.items()}
  assert sum(sizes.values()) == sum(v.size for v in jax.tree.leaves(weights))
  assert 0 < sizes['muon'] < .3 * sizes['adam']


@pytest.mark.slow
def test_captions_and_cameras_are_dropped_as_often_as_said():
  ring, _ = render_buffer.fill(KEY, 0, partial(train_prior.renders, fresh=FRESH),
                               compositions=1, slots=RING)
  z, ids, vector, seen, classes = jax.jit(lambda key: train_prior.examples(key, ring, 400))(KEY)
  blank = (ids == jnp.asarray(world.tokenize(''))[None]).all(1)
  assert z.shape == (400, *network.LATENT) and abs(z).max() <= 1.
  np.testing.assert_allclose([blank.mean(), (vector != 0.).any(1).mean()],
                             [meaning.CAPTION_DROPPED, train_prior.CAMERA_KEPT], atol=.07)
  mask, normal = jnp.split(seen, [network.PATCH ** 2], axis=-1)
  length = jnp.linalg.norm(normal.reshape(*normal.shape[:3], -1, 3), axis=-1)
  # unit normals where the object is, none elsewhere
  np.testing.assert_allclose(length, mask, atol=.02)
  np.testing.assert_array_equal(network.of_object(seen)[..., :6].reshape(-1, 2, 3)[..., 0],
                                mask[..., :2].reshape(-1, 2))
  for row in np.flatnonzero(~np.asarray(blank))[:20]:            # what is said is what is read
    item = world.parse(world.words(ids[row]))
    assert {name: int(v) for name, v in geometry.labels(item, False).items()} == {
        name: int(v[row]) for name, v in classes.items()}
  assert all((label[blank] == -1).all() for label in classes.values())


def test_the_ring_is_what_its_calls_have_added():
  """Each call's in the place after the last one's, and the same whether the ring is filled or gone
  on with."""
  make = lambda key: {'a': jax.random.uniform(key, (3, 2))}
  ring, add = render_buffer.fill(KEY, 5, make, compositions=2, slots=24)
  later, _ = render_buffer.fill(KEY, 7, make, compositions=2, slots=24)
  for j in (5, 6):
    ring = add(ring, jnp.int32(j))
  np.testing.assert_array_equal(ring['a'], later['a'])
  last = jnp.concatenate([make(k)['a'] for k in jax.random.split(jax.random.fold_in(KEY, 6), 2)])
  # the seventh call's place is the third of four
  np.testing.assert_array_equal(later['a'][12:18], last)
  assert len(np.unique(later['a'])) == 48


def noise(key, n, *, size):
  """In place of renders, which take long to compile."""
  k_rgb, k_mask, k_item, k_camera = jax.random.split(key, 4)
  bits = lambda k, *shape: jax.random.bits(k, shape, jnp.uint8)
  return render_buffer.Pool(bits(k_rgb, n, size, size, 3), bits(k_mask, n, size, size),
                            jnp.zeros((n, size, size, 3), jnp.int8),
                   jax.vmap(world.sample)(jax.random.split(k_item, n)),
                   jax.vmap(cameras.sample)(jax.random.split(k_camera, n)))


class Flags(dict):
  """Options by attribute, as absl gives them, and by item with a default that none of them is
  at."""
  def __getattr__(self, name):
    return self[name].value


def options(**values):
  return Flags({name: type('Flag', (), {'value': value, 'default': None})
                for name, value in values.items()})


def small_networks(monkeypatch):
  small = dataclasses.replace(network.UNET, block_out_channels=(16,), norm_num_groups=4,
                              down_block_types=('CrossAttnDownBlock2D',),
                              up_block_types=('CrossAttnUpBlock2D',))
  monkeypatch.setattr(network, 'unet', UNet2DCondition(small))
  monkeypatch.setattr(network, 'text_model',
                      CLIPTextModel(dataclasses.replace(network.TEXT, num_hidden_layers=1)))


@pytest.mark.slow
@pytest.mark.parametrize('steps', [1, 2])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch, steps):
  small_networks(monkeypatch)
  tx = train_prior.optimizer()
  mesh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
  run = jax.jit(trainer.make_step(train_prior.TASK, tx, n=BATCH, steps=steps, fraction=.5,
                                  peak=1e-3, sharded=NamedSharding(mesh, PartitionSpec('data'))))
  # not the cached one of the whole network
  params = jax.jit(lambda key: train_prior.init(key))(KEY)
  begin = jnp.int32(0), params, params, tx.init(params)
  monkeypatch.setattr(fit, 'FLAGS', options(batch=BATCH, steps_per_call=steps, images=4 * BATCH,
                                            minutes=0., every=2, workdir=''))
  kept = []

  def advance(state):
    first = int(state[0])
    ring, add = render_buffer.fill(KEY, first // steps,
                                   partial(noise, n=FRESH * steps, size=network.SIZE),
                                   compositions=1, slots=RING)
    def keep(state, i, value):
      kept.append((i, value))
      files.save(str(tmp_path / f'{i}.safetensors'), state[:-1])
    return fit.fit(run, (*state, KEY), ring, add, first=first, keep=keep)[0][:-1]

  whole = advance(begin)
  last = advance(files.restore(str(tmp_path / '2.safetensors'), begin))
  assert [i for i, _ in kept] == [2, 4, 4] and kept[1] == kept[2]
  jax.tree.map(np.testing.assert_array_equal, last, whole)


def test_a_run_of_minutes_ends_when_they_are_over_with_its_rate_at_the_end(monkeypatch):
  clock = iter(np.arange(0., 1e4, 3.))
  monkeypatch.setattr(fit.time, 'time', lambda: float(next(clock)))
  monkeypatch.setattr(fit, 'BEGAN', 0.)
  monkeypatch.setattr(fit, 'FLAGS', options(batch=4, steps_per_call=5, images=0, minutes=5.,
                                            every=10 ** 6, workdir=''))
  told, kept = [], []
  run = lambda state, ring, progress: (told.append(float(progress)), (state, jnp.float32(1.)))[1]
  _, i = fit.fit(run, 0, 0, lambda ring, j: ring, first=0, keep=lambda *_: kept.append(_))
  assert i == 5 * len(told) and len(kept) == 1 and told[0] == 0. and sorted(
      told) == told and .9 < told[-1] < 1.
  assert next(clock) >= 300.


def test_a_loss_that_is_not_finite_stops_the_run_before_anything_is_kept(monkeypatch):
  monkeypatch.setattr(fit, 'FLAGS', options(batch=4, steps_per_call=1, images=40, minutes=0.,
                                            every=5, workdir='runs/x'))
  run = lambda state, ring, progress: (state, jnp.float32(np.nan))
  with pytest.raises(FloatingPointError, match='at step 5; the last good state is in runs/x'):
    fit.fit(run, 0, 0, lambda ring, j: ring, first=0, keep=lambda *_: pytest.fail('kept'))


@pytest.mark.parametrize('wrong', [dict(batch=7), dict(fresh=3), dict(slots=30), dict(reuse=64)])
def test_sizes_that_do_not_fit_are_named(monkeypatch, wrong):
  sizes = dict(batch=8, steps_per_call=2, fresh=2, reuse=4, slots=32)
  monkeypatch.setattr(fit, 'FLAGS', options(**sizes))
  assert fit.compositions() == 2
  monkeypatch.setattr(fit, 'FLAGS', options(**sizes | wrong))
  with pytest.raises(ValueError, match=f'--{next(iter(wrong))}={next(iter(wrong.values()))}[ ,]'):
    fit.compositions()


def test_a_start_with_other_settings_is_noted_and_one_with_the_same_is_not(tmp_path, monkeypatch):
  flags = options(**dict.fromkeys(fit.SETTINGS, 96), workdir=str(tmp_path))
  for module in (trainer, fit):
    monkeypatch.setattr(module, 'FLAGS', flags)
  assert len(trainer.note_start(0)) == 1 == len(trainer.note_start(32))
  flags['rate'].value = 2
  lines = trainer.note_start(64)
  assert len(lines) == 2 and lines[1].startswith('from image 64:') and '--rate=2' in lines[1]
  flags['rate'].value = 3
  assert trainer.note_start(96) == lines                     # nothing was left to train
