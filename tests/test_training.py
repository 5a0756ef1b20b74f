"""The one loop: what it calls, in which order, and where it ends."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import objects
from jaxdreamer.scenes import image
from jaxdreamer.scenes.backgrounds import constant, with_background
from jaxdreamer.training import crosses, fit


def recorded(**options):
  """(what is called, a fit of a state that counts)."""
  said = []
  def feed(step):
    said.append(f'feed {step}')
    return step
  def advance(step, state, fed):
    said.append(f'call {step}')
    assert step == fed
    return state + 1, -step
  return said, fit(advance, 0, feed, **options)


def test_a_fit_ends_at_its_last_step_and_feeds_nothing_beyond():
  said, calls = recorded(step=4, stride=2, steps=8)
  assert not said                                  # nothing runs before it is asked for
  assert list(calls) == [(6, 1, -4), (8, 2, -6)]
  assert said == ['feed 4', 'call 4', 'feed 6', 'call 6']


def test_a_fit_at_its_end_does_nothing():
  said, calls = recorded(step=8, steps=8)
  assert list(calls) == [] and said == []


def test_the_next_call_is_fed_while_the_last_one_is_at_work_and_an_endless_fit_can_be_left():
  said, calls = recorded(step=0)
  assert next(calls) == (1, 1, 0) and said == ['feed 0', 'call 0', 'feed 1']
  assert [step for step, _, _ in itertools.islice(calls, 3)] == [2, 3, 4]


@pytest.mark.parametrize('before, step, every, there', [
  (0, 1, 2, False), (1, 2, 2, True), (3, 9, 5, True), (5, 9, 5, False), (0, 9, 0, False)])
def test_a_multiple_is_crossed_once(before, step, every, there):
  assert crosses(before, step, every) == there


def test_an_object_binds_its_parameters_and_asks_no_prior_where_the_scene_reads_no_text():
  scene = with_background(image.image(size=4), constant())
  def embed(prompt):
    pytest.fail('no prior is here')
  model = objects.model(jax.random.key(0), scene, prompts=('a red cube',), embed=embed, step=0,
                        size=4, samples=4, fine=0, ball=1., radius=.5, chunk=None)
  params = jax.jit(scene.init)(jax.random.key(1))
  assert model.embed('a red cube') is None
  object = model.object(params, 'a red cube')
  assert (object.radius, object.size, model.prompts) == (.5, 4, ('a red cube',))
  xyz = jnp.array([[0., -.9, .9], [.9, 0., 0.]])   # in the plate, at its first pixel; beside it
  np.testing.assert_array_equal(object.density(xyz), [200., 0.])
  expected = jax.nn.sigmoid(params['field']['image'][0, 0])
  np.testing.assert_allclose(object.color(xyz)[0], expected, rtol=1e-6)
  drawn = []
  over = object._replace(render=lambda camera, background: drawn.append((camera, background)))
  over.over(.25)('camera')
  np.testing.assert_array_equal(drawn[0][1], jnp.full(3, .25))
  assert drawn[0][0] == 'camera'
