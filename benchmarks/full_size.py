"""Published models at their full size, of random weights that are drawn where they are used; or,
tiny, of the same parts at sizes that a test can run: for benchmarks.gpu and torch_step."""
import dataclasses
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer import build, stages
from jaxdreamer.configs import dreamfusion_sd, prolificdreamer_sd
from jaxdreamer.nn import unet
from jaxdreamer.nn.unet_config import UNetConfig
from jaxdreamer.weights import model_shapes

# {config: (its module, its stage)}
STEPS = {'dreamfusion_sd': (dreamfusion_sd, ''),
         'prolificdreamer_sd': (prolificdreamer_sd, 'field')}
BATCHES = 2, 8
SD15 = UNetConfig(cross_attention_dim=768)
SMALL = {'block_out_channels': (32, 64), 'layers_per_block': 1, 'cross_attention_dim': 32,
         'attention_head_dim': 4, 'down_block_types': ('CrossAttnDownBlock2D', 'DownBlock2D'),
         'up_block_types': ('UpBlock2D', 'CrossAttnUpBlock2D')}
VAE = {'block_out_channels': (32, 32), 'layers_per_block': 1,
       'down_block_types': ('DownEncoderBlock2D',) * 2, 'up_block_types': ('UpDecoderBlock2D',) * 2}


@contextmanager
def models(*, tiny):
  """Within it Stable Diffusion's shapes are those of small networks, where `tiny`."""
  was, was_vae = dict(model_shapes.MODELS), model_shapes.VAE
  try:
    if tiny:
      wired, _, scale, texts = was['sd21-base']
      texts = tuple(text | {'hidden_size': SMALL['cross_attention_dim']} for text in texts)
      model_shapes.MODELS['sd21-base'] = dataclasses.replace(wired, **SMALL), 8, scale, texts
      model_shapes.VAE = was_vae | VAE
    yield
  finally:
    model_shapes.MODELS.update(was)
    model_shapes.VAE = was_vae


def config(name, *, tiny):
  """One of STEPS on one device, of a model by its shapes alone."""
  module, stage = STEPS[name]
  made = stages.of(module.get_config())[stage]
  made.prior.path, made.mesh.data = model_shapes.SHAPES, 1
  if tiny:
    made.scene.hashgrid.update({'levels': 4, 'finest': 32, 'log2_table': 8, 'width': 8})
    made.render.update({'samples': 4, 'fine': 4, 'stages': (), 'chunk': 0})
    made.prior.stable_diffusion.update({'image_size': 8, 'dtype': 'float32'})
  return made


def training(config):
  """Its Training, whose prior is shapes."""
  return build.training(config, build.make_mesh(config), abstract=True)


def drawn(key, shapes):
  """Random arrays in these shapes, small enough for a network of any depth; drawn on the device, a
  leaf at a time."""
  leaves, tree = jax.tree.flatten(shapes)
  draw = jax.jit(lambda key, shape, dtype: (.02 * jax.random.normal(key, shape)).astype(dtype),
                 static_argnums=(1, 2))
  keys = jax.random.split(key, len(leaves))
  return jax.tree.unflatten(tree, [draw(k, x.shape, jnp.dtype(x.dtype)) if jnp.issubdtype(
    x.dtype, jnp.floating) else jnp.zeros(x.shape, x.dtype) for k, x in zip(keys, leaves)])


def unets(*, tiny):
  """{name: (config, pixels of a side of its latents)}."""
  xl = dataclasses.replace(model_shapes.XL, **SMALL | {
    'transformer_layers_per_block': (1, 2), 'addition_time_embed_dim': 8,
    'projection_class_embeddings_input_dim': 16 + 6 * 8}) if tiny else model_shapes.XL
  return {'sd15': (dataclasses.replace(SD15, **SMALL) if tiny else SD15, 8 if tiny else 64),
          'sdxl': (xl, 8 if tiny else 128)}


def unet_inputs(config, side, batch):
  """(latent NHWC, timesteps, text[, pooled text, sizes]) as numpy arrays."""
  noise = np.random.RandomState(0)
  normal = lambda *shape: noise.standard_normal(shape).astype(np.float32)
  made = [normal(batch, side, side, config.in_channels), np.full(batch, 500., np.float32),
          normal(batch, 77, config.cross_attention_dim)]
  if config.addition_embed_type:
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    made += [normal(batch, pooled), np.full((batch, 6), 8. * side, np.float32)]
  return made


def apply_unet(config, dtype):
  """(params, *inputs) -> eps_hat of our network."""
  network = unet.UNet2DCondition(config, jnp.dtype(dtype))
  def apply(params, z, t, text, pooled=None, sizes=None):
    return network.apply({'params': params}, z, t, text, text_embeds=pooled, time_ids=sizes)
  return apply


def unet_shapes(config, side):
  """The shapes of its parameters."""
  z, t, text, *more = map(jnp.asarray, unet_inputs(config, side, 1))
  network = unet.UNet2DCondition(config)
  more = dict(zip(('text_embeds', 'time_ids'), more))
  return jax.eval_shape(lambda key: network.init(key, z, t, text, **more)['params'],
                        jax.random.key(0))
