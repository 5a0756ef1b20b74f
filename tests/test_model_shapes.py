"""Models without weights: as many parameters as the published ones, and a step whose cost the
doctor can tell."""
import dataclasses

import jax
import jax.numpy as jnp
import pytest

from configs import (
  csd_sd,
  dreamfusion_sd,
  magic3d_sd,
  osediff_sd,
  prolificdreamer_scene_sd,
  prolificdreamer_sd,
  scaledreamer_amortised,
  scaledreamer_mvdream,
  steindreamer_scene_sd,
)
from jaxdreamer import build, doctor, stages
from jaxdreamer.nn import unet, unet_config
from jaxdreamer.weights import model_shapes


@pytest.mark.slow
@pytest.mark.parametrize('name, unet_count', [('sd15', 859_520_964),
                                              ('sd21-base', 865_910_724), ('sdxl', 2_567_463_684),
                                              ('mvdream', 865_910_724 + 17 * 1280 + 1281 * 1280)])
def test_shapes_have_as_many_parameters_as_the_published(name, unet_count):
  config = unet_config.from_diffusers(model_shapes.parts(name)['unet'].config)
  zeros = lambda *shape: jnp.zeros(shape)
  more = {'text_embeds': zeros(1, 1280), 'time_ids': zeros(1, 6)} if name == 'sdxl' else {}
  where = [zeros(1, 16)] if name == 'mvdream' else []
  like = jax.eval_shape(lambda key: unet.UNet2DCondition(config).init(
    key, zeros(1, 8, 8, 4), zeros(1), zeros(1, 77, config.cross_attention_dim), *where,
    **more)['params'], jax.random.key(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(like)) == unet_count


def shrunk(name):
  """The shapes of a network of the same kind, quick to compile."""
  config, _, scale, texts = model_shapes.MODELS[name]
  small = {'block_out_channels': (32, 64), 'layers_per_block': 1,
           'down_block_types': ('DownBlock2D', 'CrossAttnDownBlock2D'),
           'up_block_types': ('CrossAttnUpBlock2D', 'UpBlock2D'), 'attention_head_dim': 1}
  return dataclasses.replace(config, **small), 8, scale, texts


@pytest.mark.slow
@pytest.mark.parametrize('make, stage, name', [
  (dreamfusion_sd, '', 'sd21-base'), (prolificdreamer_scene_sd, '', 'sd21-base'),
  (steindreamer_scene_sd, '', 'sd21-base'), (scaledreamer_mvdream, '', 'mvdream'),
  (osediff_sd, '', 'sd21-base'), (csd_sd, 'refined', 'sd21-base'),
  (magic3d_sd, 'refined', 'sd21-base'),
  (prolificdreamer_sd, 'geometry', 'sd21-base'), (prolificdreamer_sd, 'texture', 'sd21-base')])
def test_a_step_without_weights_has_shapes_and_the_weights_it_wants_a_name(monkeypatch, make, stage,
                                                                           name):
  """All that the doctor does but compiling; its words where nothing is."""
  monkeypatch.setitem(model_shapes.MODELS, name, shrunk(name))
  small = {'block_out_channels': (32, 32), 'layers_per_block': 1,
           'down_block_types': ('DownEncoderBlock2D',) * 2,
           'up_block_types': ('UpDecoderBlock2D',) * 2}
  monkeypatch.setattr(model_shapes, 'VAE', model_shapes.VAE | small)
  seen = []

  def cost(config):
    training = build.training(config, build.make_mesh(config), abstract=True)
    state = jax.eval_shape(training.init, jax.random.key(0))
    seen.append(jax.eval_shape(training.stages[0][1], state, training.prior, training.text(0)))
    return {'prior': doctor.size(training.prior)}

  monkeypatch.setattr(doctor, 'cost', cost)
  config = make.get_config()
  config = stages.of(config)[stage] if stage else config
  config.render.update({'samples': 4, 'fine': 0})
  config.steps_per_call = 1
  rows = doctor.cost_without_weights(config)
  assert rows['no weights'].startswith('config.prior.path: give') and 'config.prior.hub' in rows[
      'no weights']
  assert 'M numbers' in rows['prior'] and seen[0][1]['gradient_norm'].shape == ()


def test_a_path_that_leads_nowhere_is_an_error_still(tmp_path):
  config = dreamfusion_sd.get_config()
  config.prior.path = str(tmp_path / 'none')
  with pytest.raises(FileNotFoundError, match='none'):
    doctor.cost_without_weights(config)


@pytest.mark.slow
# the others' networks are smaller cp100k's
@pytest.mark.slow
@pytest.mark.parametrize('corpus', ['mg15', 'cp100k', 'dl17k'])
def test_a_step_of_a_generator_at_full_size_is_one_program(corpus, tmp_path, monkeypatch):
  """Lowered from shapes alone; `doctor` on the same config compiles it and prints its memory."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  (tmp_path / 'corpus.txt').write_text('a red mug\na blue car\n')
  config = scaledreamer_amortised.get_config(f'{corpus},1')
  config.prior.path, config.corpus.path, config.mesh.data = model_shapes.SHAPES, str(
      tmp_path / 'corpus.txt'), 1
  training = build.training(config, build.make_mesh(config), abstract=True)
  state = jax.eval_shape(training.init, jax.random.key(0))
  (_, step), = training.stages
  after, info = step.lower(state, training.prior, training.text(0)).out_info
  assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
  assert info['gradient_norm'].shape == ()
