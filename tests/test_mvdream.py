"""MVDream's two differences from Stable Diffusion: what a camera says, and which pixels see each
other. Parity with torch:
parity/test_unet_parity.py."""
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import cameras
from jaxdreamer.nn import attention, mvdream
from jaxdreamer.nn.unet import UNet2DCondition
from jaxdreamer.toybox import xla_flags
from jaxdreamer.weights import safetensors_io

# Compiling is what takes time here.
QUICK = xla_flags.known({'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False})
TINY = dataclasses.replace(mvdream.CONFIG, block_out_channels=(8, 16), layers_per_block=1,
                           norm_num_groups=4, cross_attention_dim=6,
                           down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
                           attention_head_dim=2,
                           up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'))


def test_a_camera_is_told_as_mvdream_writes_it():
  angles = np.radians([[0., 0.], [90., 15.], [200., -20.], [330., 80.]])
  orbital = jax.vmap(functools.partial(cameras.orbital, distance=3.2, fov=.7))
  told = mvdream.camera_vector(orbital(*jnp.asarray(angles.T, jnp.float32)))
  for row, (a, e) in zip(np.asarray(told), angles):
    # its fronts are seen from +x
    stands = np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    right = np.array([-math.sin(a), math.cos(a), 0.])
    expected = np.stack([right, np.cross(stands, right), stands, stands], 1)
    np.testing.assert_allclose(row, [*expected.ravel(), 0., 0., 0., 1.], atol=1e-6)


def test_a_camera_at_the_origin_is_told_without_dividing_by_zero():
  camera = jax.tree.map(lambda x: x[None], cameras.orbital(0., 0., 0., .7))
  told = lambda pose: mvdream.camera_vector(camera._replace(world_from_camera=pose)).sum()
  value, slope = jax.jit(jax.value_and_grad(told), compiler_options=QUICK)(camera.world_from_camera)
  assert jnp.isfinite(value) and jnp.isfinite(slope).all()


def test_self_attention_is_over_the_views_of_a_scene_and_in_chunks_the_same():
  # two scenes of two views, six pixels, two heads
  q, k, v = jax.random.normal(jax.random.key(0), (3, 4, 6, 2, 5))
  joint = attention.attend(q, k, v, views=2)
  for scene in (slice(0, 2), slice(2, 4)):
    flat = [x[scene].reshape(1, 12, 2, 5) for x in (q, k, v)]
    np.testing.assert_allclose(joint[scene].reshape(1, 12, 2, 5),
                               jax.nn.dot_product_attention(*flat), rtol=1e-5, atol=1e-6)

  @functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
  def out_and_slopes(chunk, *qkv):
    out, pullback = jax.vjp(functools.partial(attention.attend, views=2, chunk=chunk), *qkv)
    return out, *pullback(jnp.cos(out))

  for chunked, whole in zip(out_and_slopes(3, q, k, v), out_and_slopes(100, q, k, v)):
    np.testing.assert_allclose(chunked, whole, rtol=1e-4, atol=1e-6)
  with pytest.raises(ValueError, match='no groups of 3 views'):
    attention.attend(q, k, v, views=3)
  with pytest.raises(ValueError, match='chunks of 5'):
    attention.attend(q, k, v, views=2, chunk=5)


@pytest.mark.parametrize('dtype, atol', [(jnp.float32, 1e-6), (jnp.bfloat16, 4e-3)])
def test_attention_by_heads_is_that_of_all_heads_at_once(dtype, atol):
  q, k, v = (jax.random.normal(jax.random.key(i), (2, n, 3, 4), dtype)
             for i, n in enumerate((64, 20, 20)))
  ways = functools.partial(attention.by_heads, queries=16), jax.nn.dot_product_attention
  ours, theirs = ((out, *pullback(jnp.cos(out)))
                  for out, pullback in (jax.vjp(way, q, k, v) for way in ways))
  for a, b in zip(ours, theirs):
    np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), rtol=1e-4,
                               atol=10 * atol)
  assert ours[0].dtype == dtype and ours[0].shape == q.shape


def test_large_attention_on_a_cpu_goes_head_by_head(monkeypatch):
  asked = []
  monkeypatch.setattr(attention, 'by_heads',
                      lambda q, k, v, queries: asked.append((q.shape, queries)) or q)
  like = jax.ShapeDtypeStruct((2, 512, 2, 4), jnp.float32)
  look = lambda **options: jax.eval_shape(functools.partial(attention.attend, **options), like,
                                          like, like).shape
  assert {look(), look(views=2), look(chunk=128), look(chunk=16)} == {like.shape}
  assert asked == [(like.shape, 512), ((1, 1024, 2, 4), 512), (like.shape, 128)]


@pytest.mark.slow
def test_views_of_a_scene_see_each_other_scenes_do_not_and_order_does_not_matter():
  model = UNet2DCondition(TINY, views=2)
  key = jax.random.split(jax.random.key(0), 4)
  args = [jax.random.normal(key[0], (4, 4, 4, 4)), jnp.full(4, 300.),
          jax.random.normal(key[1], (4, 3, 6)),
          jax.random.normal(key[2], (4, 16))]
  noise = np.random.RandomState(0)
  params = jax.tree.map(lambda p: .2 * noise.standard_normal(p.shape).astype(np.float32),
                        jax.eval_shape(model.init, key[3], *args)['params'])

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(args):
    """Output, and the first view's derivatives by all that goes in."""
    out, pullback = jax.vjp(lambda *args: model.apply({'params': params}, *args), *args)
    return out, pullback(jnp.zeros_like(out).at[0].set(jnp.arange(64.).reshape(4, 4, 4)))

  out, slopes = run(args)
  for slope in slopes:
    size = jnp.abs(slope).reshape(4, -1).max(1)
    assert (size[:2] > 0).all() and (size[2:] == 0).all()
  swapped, _ = run([x[jnp.array([1, 0, 2, 3])] for x in args])
  np.testing.assert_allclose(swapped, out[jnp.array([1, 0, 2, 3])], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_published_network_is_stable_diffusion_2_and_two_layers():
  model = mvdream.unet(views=2)
  like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8, 8, 4)), jnp.zeros(2),
                        jnp.zeros((2, 2, 1024)),
                        jnp.zeros((2, 16)))['params']
  assert sum(leaf.size for leaf in jax.tree.leaves(like)) == 865_910_724 + 17 * 1280 + 1281 * 1280


@pytest.mark.parametrize('prefix', ['', 'model.diffusion_model.'])
def test_the_cameras_layers_have_mvdreams_names(prefix):
  ours = {f'class_embedding.linear_{i}.{kind}' for i in (1, 2) for kind in ('weight', 'bias')}
  theirs = [f'{prefix}camera_embed.{i}.{kind}' for i in (0, 2) for kind in ('weight', 'bias')]
  assert {new for key in theirs
          for new, _ in safetensors_io.renamed(key, mvdream.MVDREAM_RENAME)} == ours
