"""toybox-sd: a small but true Stable Diffusion of the toybox, in the published layout.

CLIP's tokenizer over the toybox's words, its text encoder, the autoencoder (64 px to 16 x 16 x 4),
a UNet that is told words alone, and the published betas: nothing here is another network than
those of nn/, with which the published models are read. The folder is opened by
priors/stable_diffusion.py, and by diffusers' own pipeline, as any other.
"""
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxdreamer import files
from jaxdreamer.diffusion import ddpm
from jaxdreamer.nn import clip, mvdream, unet, unet_config, vae
from jaxdreamer.toybox import sd_text
from jaxdreamer.types import NoiseSchedule
from jaxdreamer.weights import clip_tokens, safetensors_io

SHIPPED = pathlib.Path(__file__).parents[1] / 'assets' / 'toybox_sd'
UNET_FILE = 'unet/diffusion_pytorch_model.safetensors'
SIZE, SIDE = 64, 16                              # of a picture, of its latent
DOWN, UP = 'CrossAttnDownBlock2D', 'CrossAttnUpBlock2D'

VAE = {'_class_name': 'AutoencoderKL', 'in_channels': 3, 'out_channels': 3, 'latent_channels': 4,
       'block_out_channels': [24, 48, 80], 'layers_per_block': 1, 'norm_num_groups': 8,
       'down_block_types': [vae.DOWN] * 3, 'up_block_types': [vae.UP] * 3, 'act_fn': 'silu',
       'sample_size': SIZE}
# Words are attended to on 8 x 8 and 4 x 4, as by the pixel prior (network.UNET).
UNET = {'_class_name': 'UNet2DConditionModel', 'sample_size': SIDE, 'in_channels': 4,
        'out_channels': 4, 'block_out_channels': [64, 96, 112], 'layers_per_block': 1,
        'down_block_types': ['DownBlock2D', DOWN, DOWN], 'up_block_types': [UP, UP, 'UpBlock2D'],
        'attention_head_dim': 4, 'norm_num_groups': 16, 'cross_attention_dim': 128,
        'use_linear_projection': True, 'act_fn': 'silu'}
# what makes MVDream of it: four views of a scene at a time, and where each stands
TURNS = 4
SEEN = {'class_embed_type': 'projection', 'projection_class_embeddings_input_dim': mvdream.CAMERA}
TEXT = {'architectures': ['CLIPTextModel'], 'model_type': 'clip_text_model', 'hidden_size': 128,
        'intermediate_size': 512, 'num_hidden_layers': 2, 'num_attention_heads': 4,
        'max_position_embeddings': sd_text.LENGTH, 'hidden_act': 'quick_gelu',
        'torch_dtype': 'float32'}      # of use, not of the file: as the UNet's is in diffusers
SCHEDULER = {'_class_name': 'DDIMScheduler', 'num_train_timesteps': 1000, 'beta_start': .00085,
             'beta_end': .012, 'beta_schedule': 'scaled_linear', 'clip_sample': False,
             'set_alpha_to_one': True, 'steps_offset': 1, 'prediction_type': 'epsilon'}
INDEX = {'_class_name': 'StableDiffusionPipeline', 'unet': ['diffusers', 'UNet2DConditionModel'],
         'vae': ['diffusers', 'AutoencoderKL'], 'text_encoder': ['transformers', 'CLIPTextModel'],
         'tokenizer': ['transformers', 'CLIPTokenizer'],
         'scheduler': ['diffusers', 'DDIMScheduler'], 'safety_checker': [None, None],
         'feature_extractor': [None, None], 'requires_safety_checker': False}


def text_config() -> dict:
  """The text encoder's config.json."""
  vocabulary = sd_text.vocabulary()
  start, end = vocabulary[clip_tokens.START], vocabulary[clip_tokens.END]
  return TEXT | {'vocab_size': len(vocabulary), 'bos_token_id': start, 'eos_token_id': end,
                 'pad_token_id': end}


def autoencoder() -> vae.AutoencoderKL:
  """The autoencoder, without weights."""
  return vae.AutoencoderKL(vae.config_from_diffusers(VAE))


def text_encoder() -> clip.CLIPTextModel:
  """The text encoder, without weights."""
  return clip.CLIPTextModel(clip.config_from_transformers(text_config()))


def denoiser(*, seen: bool = False) -> unet.UNet2DCondition:
  """The UNet, without weights; `seen`: told of cameras, and of TURNS views at once."""
  return unet.UNet2DCondition(unet_config.from_diffusers(UNET | (SEEN if seen else {})),
                              views=TURNS if seen else 1)


def init_autoencoder(key: Key[Array, '']) -> PyTree:
  """Random weights of the autoencoder."""
  return autoencoder().init(key, jnp.zeros((1, SIZE, SIZE, 3)))['params']


def init(key: Key[Array, '']) -> PyTree:
  """Random weights {'unet', 'text_model'}."""
  k_unet, k_text = jax.random.split(key)
  ids = jnp.zeros((1, sd_text.LENGTH), jnp.int32)
  words = jnp.zeros((1, sd_text.LENGTH, UNET['cross_attention_dim']))
  return {'unet': denoiser().init(k_unet, jnp.zeros((1, SIDE, SIDE, 4)), jnp.zeros(1),
                                  words)['params'],
          'text_model': text_encoder().init(k_text, ids)['params']}


def encode(weights: PyTree, x: Float[Array, 'B H W 3'], *, dtype=jnp.float32) -> vae.Posterior:
  """The posterior of pictures in [0, 1], before the scaling factor."""
  return autoencoder().clone(dtype=dtype).apply({'params': weights}, 2. * x - 1., method='encode')


def decode(weights: PyTree, z: Float[Array, 'B h w 4'], *, dtype=jnp.float32
           ) -> Float[Array, 'B H W 3']:
  """About [0, 1], of latents before the scaling factor."""
  return .5 + .5 * autoencoder().clone(dtype=dtype).apply({'params': weights}, z, method='decode')


def embed(weights: PyTree, ids: Int[Array, 'B L']) -> tuple[Float[Array, 'B L D'],
                                                            Float[Array, 'B D']]:
  """Token ids -> what the UNet attends to, and the state at the end of the text."""
  words, pooled, _ = text_encoder().apply({'params': weights['text_model']}, ids)
  return words, pooled


def predict(weights: PyTree, z_t: Float[Array, 'B h w 4'], t: Float[Array, 'B'],
            words: Float[Array, 'B L D'], where: Float[Array, 'B 16'] | None, *,
            dtype=jnp.float32) -> Float[Array, 'B h w 4']:
  """The UNet's own output at t in [0, 1]; `where` is mvdream.camera_vector of each row, of which
  TURNS successive ones are one scene; None of a model that sees no cameras."""
  told = (t * (SCHEDULER['num_train_timesteps'] - 1), words, *([] if where is None else [where]))
  network = denoiser(seen=where is not None).clone(dtype=dtype)
  return network.apply({'params': weights['unet']}, z_t, *told)


def schedule() -> NoiseSchedule:
  """The published betas."""
  return ddpm(beta_start=SCHEDULER['beta_start'], beta_end=SCHEDULER['beta_end'],
              steps=SCHEDULER['num_train_timesteps'], kind=SCHEDULER['beta_schedule'])


def save_autoencoder(folder: pathlib.Path, weights: PyTree, *, scale: float,
                     metadata: dict | None = None, dtype: Any = jnp.float16) -> None:
  """Writes vae/; `scale` is what latents are multiplied by to have a variance of 1."""
  files.write_json(folder / 'vae' / 'config.json', VAE | {'scaling_factor': scale})
  safetensors_io.save(folder / 'vae' / 'diffusion_pytorch_model.safetensors', weights,
                      metadata=metadata, dtype=dtype)


def save(folder: pathlib.Path, weights: PyTree, *, prediction: str, metadata: dict | None = None,
         dtype: Any = jnp.float16) -> None:
  """Writes all but vae/."""
  seen = 'class_embedding' in weights['unet']
  files.write_json(folder / 'unet' / 'config.json', UNET | (SEEN if seen else {}))
  safetensors_io.save(folder / UNET_FILE, weights['unet'], metadata=metadata, dtype=dtype)
  files.write_json(folder / 'text_encoder' / 'config.json', text_config())
  safetensors_io.save(folder / 'text_encoder' / 'model.safetensors',
                      {'text_model': weights['text_model']}, dtype=dtype)
  sd_text.write(folder / 'tokenizer')
  files.write_json(folder / 'scheduler' / 'scheduler_config.json', SCHEDULER | {
    'prediction_type': prediction})
  files.write_json(folder / 'model_index.json', INDEX)


def load_autoencoder(folder: pathlib.Path) -> tuple[PyTree, float]:
  """(weights, scaling factor) of a folder's vae/. FileNotFoundError names the command that makes
  one."""
  path = folder / 'vae' / 'diffusion_pytorch_model.safetensors'
  if not path.is_file():
    raise FileNotFoundError(f'no autoencoder at {path}: '
                            f'python -m jaxdreamer.toybox.train_autoencoder --out={folder}')
  config = json.loads((folder / 'vae' / 'config.json').read_text())
  return safetensors_io.load(path, jax.eval_shape(init_autoencoder, jax.random.key(0)),
                             rename=vae.VAE_RENAME), config['scaling_factor']


def prediction_of(folder: pathlib.Path) -> str:
  """What the UNet of a folder predicts, a key of diffusion.PREDICTIONS."""
  return json.loads((folder / 'scheduler' / 'scheduler_config.json').read_text())[
      'prediction_type']


def load(folder: pathlib.Path) -> PyTree:
  """{'unet', 'text_model'} of a folder."""
  like = jax.eval_shape(init, jax.random.key(0))
  unet_weights = safetensors_io.load(folder / UNET_FILE, like['unet'])
  text = safetensors_io.load(folder / 'text_encoder' / 'model.safetensors',
                             {'text_model': like['text_model']})
  return {'unet': unet_weights, **text}
