"""View words between the sides."""
import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer import diffusion

WORDS = jnp.eye(4)[:, None]                      # each side's text is an axis


def denied(degrees, *, elevation=0.):
  return diffusion.perp_neg_texts(WORDS, jnp.radians(degrees), jnp.radians(elevation))


def test_the_text_turns_with_the_camera():
  for degrees, want in ((0., [1, 0, 0, 0]), (45., [.5, .5, 0, 0]), (-90., [0, 1, 0, 0]),
                        (135., [0, .5, .5, 0]),
                        (180., [0, 0, 1, 0]), (-180., [0, 0, 1, 0])):
    np.testing.assert_allclose(denied(degrees)[0][0], want, atol=1e-6)
  np.testing.assert_allclose(denied(20., elevation=70.)[0][0], [0, 0, 0, 1])


def test_what_a_view_is_not_is_denied_the_more_the_less_it_is_that():
  _, texts, weights = denied(10.)
  np.testing.assert_array_equal(texts[:, 0], np.eye(4)[[0, 1]])
  assert weights[1] < weights[0] <= 0.  # nearly the front: the side is denied, the front is not
  _, texts, weights = denied(170.)
  np.testing.assert_array_equal(texts[:, 0], np.eye(4)[[1, 0]])
  assert (weights < 0.).all()                    # the back is neither
  np.testing.assert_array_equal(denied(20., elevation=70.)[2], [0., 0.])
  turning = jax.vmap(lambda a: diffusion.perp_neg_texts(WORDS, a, jnp.zeros(()))[2])(
      jnp.linspace(-jnp.pi, jnp.pi, 721))
  assert (turning <= 0.).all()
