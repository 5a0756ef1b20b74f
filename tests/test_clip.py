"""The text tower: causality, pooling, the closed form of an empty stack. Parity:
parity/test_clip_parity.py."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.nn.clip import CLIPTextConfig, CLIPTextModel, config_from_transformers

EOS = 3
SMALL = CLIPTextConfig(vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                       num_attention_heads=4,
                       max_position_embeddings=8, eos_token_id=EOS)


@pytest.fixture(scope='module')
def tower():
  """ids -> (hidden, pooled, penultimate) at fixed weights, positions and tokens at unit scale."""
  model = CLIPTextModel(SMALL)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
  params['params']['embeddings'] = jax.tree.map(lambda e: 50 * e, params['params']['embeddings'])
  apply = jax.jit(model.apply)
  return lambda ids: apply(params, jnp.asarray(ids))


def test_a_row_depends_on_no_later_token(tower):
  ids = np.array([[5, 6, 7, 8, 9, 10, 11, EOS]])
  changed = ids.copy()
  changed[0, 4] = 20
  difference = jnp.abs(tower(ids)[0] - tower(changed)[0])[0].max(-1)
  np.testing.assert_allclose(difference[:4], 0, atol=1e-6)
  assert (difference[4:] > 1e-3).all()


def test_pooled_is_the_row_of_the_first_eos(tower):
  hidden, pooled, _ = tower([[5, 6, EOS, EOS, EOS], [5, EOS, 7, EOS, 8], [5, 6, 7, 8, EOS]])
  np.testing.assert_array_equal(pooled, hidden[jnp.arange(3), jnp.array([2, 1, 4])])


def test_padding_changes_neither_the_pooled_row_nor_the_tokens(tower):
  short, padded = tower([[5, 6, 7, EOS]]), tower([[5, 6, 7, EOS, 0, 0, 0]])
  np.testing.assert_allclose(short[0], padded[0][:, :4], atol=1e-5)
  np.testing.assert_allclose(short[1], padded[1], atol=1e-5)


def test_word_order_matters(tower):
  assert jnp.abs(tower([[5, 6, EOS]])[1] - tower([[6, 5, EOS]])[1]).max() > 1e-3


def test_no_layers_leave_the_normalized_sum_of_token_and_position():
  model = CLIPTextModel(CLIPTextConfig(vocab_size=30, hidden_size=16, num_hidden_layers=0,
                                       num_attention_heads=4))
  ids = jnp.array([[4, 9, 2]])
  params = model.init(jax.random.key(0), ids)['params']
  token, position = (params['embeddings'][f'{name}_embedding']['embedding']
                     for name in ('token', 'position'))
  x = np.asarray(token)[[4, 9, 2]] + np.asarray(position)[:3]
  expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(model.apply({'params': params}, ids)[0][0], expected, atol=1e-5)


def test_default_config_has_as_many_parameters_as_clip_vit_l_14():
  like = jax.eval_shape(CLIPTextModel(CLIPTextConfig()).init, jax.random.key(0),
                        jnp.zeros((1, 77), jnp.int32))
  assert sum(leaf.size for leaf in jax.tree.leaves(like)) == 123_060_480


def test_old_config_files_mean_the_last_token_by_eos_2():
  assert config_from_transformers({'vocab_size': 49408, 'eos_token_id': 2,
                                   'dropout': 0.}).eos_token_id == 49407
  assert config_from_transformers({'vocab_size': 50, 'eos_token_id': 7}).eos_token_id == 7


def test_what_the_tower_cannot_serve_is_named(tower):
  with pytest.raises(ValueError, match='9 tokens, at most 8'):
    tower(np.zeros((1, 9), np.int32))
  with pytest.raises(ValueError, match="hidden_act 'relu'"):
    CLIPTextConfig(hidden_act='relu')
  with pytest.raises(ValueError, match='no multiple of 5 heads'):
    CLIPTextConfig(num_attention_heads=5)
