"""Which attention is asked for where; nothing here needs a GPU."""
import functools

import jax
import jax.numpy as jnp
import pytest

from jaxdreamer.nn import attention, clip, vit

HOPPER, AMPERE, NONE = (9, 0), (8, 0), (0, 0)


@pytest.fixture
def asked(monkeypatch):
  """The implementations that are asked for; each is traced as XLA's."""
  names, whole = [], jax.nn.dot_product_attention
  def attend(q, k, v, *, is_causal, implementation):
    names.append(implementation)
    return whole(q, k, v, is_causal=is_causal)
  monkeypatch.setattr(jax.nn, 'dot_product_attention', attend)
  return names


@pytest.mark.parametrize('able, dtype, width, tokens, expected', [
  (HOPPER, jnp.bfloat16, 40, 256, 'cudnn'), (HOPPER, jnp.float16, 160, 64, 'cudnn'),
  (HOPPER, jnp.bfloat16, 256, 256, 'cudnn'), (HOPPER, jnp.bfloat16, 512, 256, 'xla'),
  (AMPERE, jnp.bfloat16, 128, 256, 'cudnn'), (AMPERE, jnp.bfloat16, 160, 256, 'xla'),
  (HOPPER, jnp.float32, 64, 256, 'xla'), (HOPPER, jnp.bfloat16, 60, 256, 'xla'),
  (HOPPER, jnp.bfloat16, 64, 16, 'xla'), (HOPPER, jnp.bfloat16, 64, 257, 'xla'),
  ((7, 5), jnp.bfloat16, 64, 256, 'xla'),
  (NONE, jnp.bfloat16, 64, 256, 'xla')])
def test_cudnn_is_asked_for_where_it_can(monkeypatch, asked, able, dtype, width, tokens,
                                         expected):
  monkeypatch.setattr(attention, 'capability', lambda: able)
  q, text = (jax.ShapeDtypeStruct((2, n, 3, width), dtype) for n in (tokens, 78))
  for k in (q, text):
    assert jax.eval_shape(lambda *x: attention.softmax_mixed(*x), q, k, k).shape == q.shape
  assert asked == [expected, 'xla']


def test_capability_is_that_of_the_device_programs_are_traced_for(monkeypatch):
  class Device:
    def __init__(self, told):
      self.compute_capability = told
  assert attention.capability() == NONE          # a CPU tells none
  for told, able in (('9.0', HOPPER), ('12.0', (12, 0)), ('gfx90a', NONE)):
    monkeypatch.setattr(jax, 'devices', lambda told=told: [Device(told)])
    assert attention.capability() == able
  with jax.default_device(jax.local_devices(backend='cpu')[0]):
    assert attention.capability() == NONE


def test_fused_attention_needs_no_chunks(monkeypatch, asked):
  monkeypatch.setattr(attention, 'capability', lambda: HOPPER)
  monkeypatch.setattr(attention, 'WORTH', 2 ** 60)           # the CPU's own way
  like = {dtype: jax.ShapeDtypeStruct((2, 128, 2, 8), dtype)
          for dtype in (jnp.bfloat16, jnp.float32)}
  chunked = functools.partial(attention.attend, views=2, chunk=64)
  loops = {dtype: 'scan' in str(jax.make_jaxpr(chunked)(x, x, x)) for dtype, x in like.items()}
  assert loops == {jnp.bfloat16: False, jnp.float32: True} and asked == ['cudnn', 'xla']


def test_the_towers_ask_for_it_too(monkeypatch, asked):
  monkeypatch.setattr(attention, 'capability', lambda: HOPPER)
  x = jnp.zeros((1, 64, 16))
  config = clip.CLIPTextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                               num_attention_heads=2)
  for tower in (vit.SelfAttention(2, dtype=jnp.bfloat16), clip.SelfAttention(config, jnp.bfloat16)):
    jax.eval_shape(tower.init, jax.random.key(0), x)
  assert asked == ['cudnn', 'cudnn']


def test_jax_takes_what_is_asked_of_cudnn_and_its_gradient(monkeypatch):
  """Lowered for a GPU that is not here: JAX's own checks of shapes, in training too, are passed."""
  fused = pytest.importorskip('jax._src.cudnn.fused_attention_stablehlo')
  told = {'check_cudnn_version': lambda: 91500, 'check_compute_capability': lambda _: True,
          'is_cuda_compute_capability_equal': lambda _: False}
  if not all(hasattr(fused, name) for name in told):
    pytest.skip('this jax checks in another way')
  for name, check in told.items():
    monkeypatch.setattr(fused, name, check)
  monkeypatch.setattr(attention, 'capability', lambda: HOPPER)
  monkeypatch.setattr(attention, 'WORTH', 2 ** 60)
  q, text = (jax.ShapeDtypeStruct((2, n, 2, 40), jnp.bfloat16) for n in (64, 77))

  def both(q, k, v):
    out = attention.attend(q, q, q, views=2) + attention.attend(q, k, v)
    return jnp.sum(out.astype(jnp.float32) ** 2)
  lowered = jax.jit(jax.grad(both)).trace(q, text, text).lower(lowering_platforms=('cuda',))
  assert 'fmhaSoftmaxBackward' in lowered.as_text()
