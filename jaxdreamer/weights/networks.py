"""The network of a part of a published model, by the part's name and config: what reads its weights
outside of a prior."""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdreamer.nn import clip, unet, unet_config, vae

SIZES = 6                                # numbers that tell XL a picture's size and crop
TOWERS = {'text_encoder': clip.CLIPTextModel,
          'text_encoder_2': clip.CLIPTextModelWithProjection}
MOST = 128                               # layers of a kind, or levels; published ones have 32
DEPTHS = ('num_hidden_layers', 'layers_per_block', 'transformer_layers_per_block')


class Network(NamedTuple):
  """A linen module, and the shapes and dtypes of what it is called with."""
  module: Any
  inputs: tuple[jax.ShapeDtypeStruct, ...]
  named: dict[str, jax.ShapeDtypeStruct] = {}

  def like(self) -> PyTree:
    """The shapes of its parameters, as safetensors_io.load wants them."""
    return jax.eval_shape(self.module.init, jax.random.key(0), *self.inputs,
                          **self.named)['params']


def network(name: str, config: dict, *, times: int = 1) -> Network:
  """Of 'unet', 'vae', 'text_encoder' or 'text_encoder_2', whose config.json is `config`; its
  pictures are `times` as wide as the smallest it takes. ValueError for one that asks for other
  maths, or for so many layers that nobody published it."""
  counts = jax.tree.leaves([config.get(depth, 1) for depth in DEPTHS])
  if max(counts) > MOST or len(config.get('block_out_channels') or ()) > MOST:
    raise ValueError(f'it has more than {MOST} layers or levels')
  shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct(sizes, dtype)
  if name in TOWERS:
    wired = clip.config_from_transformers(config)
    tokens = shape(1, wired.max_position_embeddings, dtype=jnp.int32)
    return Network(TOWERS[name](wired), (tokens,))
  wired = (vae.config_from_diffusers if name == 'vae' else unet_config.from_diffusers)(config)
  side = times * 2 ** (len(wired.block_out_channels) - 1)
  picture = shape(1, side, side, wired.in_channels)
  if name == 'vae':
    return Network(vae.AutoencoderKL(wired), (picture,))
  inputs = picture, shape(1), shape(1, 77, wired.cross_attention_dim)
  asked, named = wired.projection_class_embeddings_input_dim, {}
  if wired.class_embed_type:
    inputs = *inputs, shape(1, asked)
  if wired.addition_embed_type:
    named = {'text_embeds': shape(1, asked - SIZES * wired.addition_time_embed_dim),
             'time_ids': shape(1, SIZES)}
  return Network(unet.UNet2DCondition(wired), inputs, named)
