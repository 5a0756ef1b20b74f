"""toybox-sd: a small but true Stable Diffusion of the toybox, in the published layout.

CLIP's tokenizer over the toybox's words, its text encoder, the autoencoder (64 px to 16 x 16 x 4),
a UNet that is told words alone, and the published betas: nothing here is another network than
those of nn/, with which the published models are read. The folder is opened by
priors/stable_diffusion.py, and by diffusers' own pipeline, as any other.
"""
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jaxtyping import Array, Float, Int, Key, PyTree
from tokenizers import models, pre_tokenizers, trainers

from jaxdreamer.diffusion import ddpm
from jaxdreamer.nn import clip, unet, unet_config, vae
from jaxdreamer.toybox import language
from jaxdreamer.types import NoiseSchedule
from jaxdreamer.weights import clip_tokens, safetensors_io

SHIPPED = pathlib.Path(__file__).parents[1] / 'assets' / 'toybox_sd'
SIZE, SIDE = 64, 16                              # of a picture, of its latent
LENGTH = 24                                      # tokens of a text
COMMA = ','                                      # before the words of a view
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
TEXT = {'architectures': ['CLIPTextModel'], 'model_type': 'clip_text_model', 'hidden_size': 128,
        'intermediate_size': 512, 'num_hidden_layers': 2, 'num_attention_heads': 4,
        'max_position_embeddings': LENGTH, 'hidden_act': 'quick_gelu'}
SCHEDULER = {'_class_name': 'DDIMScheduler', 'num_train_timesteps': 1000, 'beta_start': .00085,
             'beta_end': .012, 'beta_schedule': 'scaled_linear', 'clip_sample': False,
             'set_alpha_to_one': True, 'steps_offset': 1, 'prediction_type': 'epsilon'}
INDEX = {'_class_name': 'StableDiffusionPipeline', 'unet': ['diffusers', 'UNet2DConditionModel'],
         'vae': ['diffusers', 'AutoencoderKL'], 'text_encoder': ['transformers', 'CLIPTextModel'],
         'tokenizer': ['transformers', 'CLIPTokenizer'],
         'scheduler': ['diffusers', 'DDIMScheduler'], 'safety_checker': [None, None],
         'feature_extractor': [None, None], 'requires_safety_checker': False}


def byte_letters() -> list[str]:
  """The printable stand-ins of the 256 bytes, in the order of CLIP's vocabulary."""
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  return [chr(b) for b in shown] + [chr(256 + i) for i in range(256 - len(shown))]


@functools.cache
def byte_pairs() -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
  """CLIP's vocabulary for the toybox, and its merges: every word of the toybox becomes one token,
  any other text its letters or pieces."""
  letters = byte_letters()
  learner = tokenizers.Tokenizer(models.BPE(end_of_word_suffix='</w>'))
  learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  learner.train_from_iterator(
      [' '.join(language.VOCABULARY[2:-1])],
      trainers.BpeTrainer(vocab_size=10_000, min_frequency=1, end_of_word_suffix='</w>',
                          show_progress=False))
  told = json.loads(learner.to_str())['model']['merges']
  merges = tuple(tuple(pair.split(' ')) if isinstance(pair, str) else tuple(pair) for pair in told)
  words = [*letters, *(f'{letter}</w>' for letter in letters), *map(''.join, merges),
           clip_tokens.START, clip_tokens.END]
  return {word: i for i, word in enumerate(dict.fromkeys(words))}, merges


def write_tokenizer(folder: pathlib.Path) -> None:
  """CLIPTokenizer's four files."""
  vocabulary, merges = byte_pairs()
  special = {'bos_token': clip_tokens.START, 'eos_token': clip_tokens.END,
             'unk_token': clip_tokens.END, 'pad_token': clip_tokens.END}
  folder.mkdir(parents=True, exist_ok=True)
  write_json(folder / 'vocab.json', vocabulary)
  (folder / 'merges.txt').write_text(''.join(f'{line}\n' for line in (
      '#version: 0.2', *map(' '.join, merges))), encoding='utf-8')
  write_json(folder / 'special_tokens_map.json', special)
  write_json(folder / 'tokenizer_config.json', special | {
    'tokenizer_class': 'CLIPTokenizer', 'model_max_length': LENGTH, 'do_lower_case': True})


def write_json(path: pathlib.Path, value: dict) -> None:
  """A file of diffusers' layout."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value, indent=1) + '\n', encoding='utf-8')


def text_config() -> dict:
  """The text encoder's config.json."""
  vocabulary, _ = byte_pairs()
  start, end = vocabulary[clip_tokens.START], vocabulary[clip_tokens.END]
  return TEXT | {'vocab_size': len(vocabulary), 'bos_token_id': start, 'eos_token_id': end,
                 'pad_token_id': end}


def networks() -> tuple[vae.AutoencoderKL, unet.UNet2DCondition, clip.CLIPTextModel]:
  """The autoencoder, the UNet and the text encoder, without weights."""
  return (vae.AutoencoderKL(vae.config_from_diffusers(VAE)),
          unet.UNet2DCondition(unet_config.from_diffusers(UNET)),
          clip.CLIPTextModel(clip.config_from_transformers(text_config())))


def init_autoencoder(key: Key[Array, '']) -> PyTree:
  """Random weights of the autoencoder."""
  return networks()[0].init(key, jnp.zeros((1, SIZE, SIZE, 3)))['params']


def init(key: Key[Array, '']) -> PyTree:
  """Random weights {'unet', 'text_model'}."""
  k_unet, k_text = jax.random.split(key)
  _, denoiser, reader = networks()
  return {'unet': denoiser.init(k_unet, jnp.zeros((1, SIDE, SIDE, 4)), jnp.zeros(1),
                                jnp.zeros((1, LENGTH, UNET['cross_attention_dim'])))['params'],
          'text_model': reader.init(k_text, jnp.zeros((1, LENGTH), jnp.int32))['params']}


def encode(weights: PyTree, x: Float[Array, 'B H W 3'], *, dtype=jnp.float32) -> vae.Posterior:
  """The posterior of pictures in [0, 1], before the scaling factor."""
  return networks()[0].clone(dtype=dtype).apply({'params': weights}, 2. * x - 1., method='encode')


def decode(weights: PyTree, z: Float[Array, 'B h w 4'], *, dtype=jnp.float32
           ) -> Float[Array, 'B H W 3']:
  """About [0, 1], of latents before the scaling factor."""
  return .5 + .5 * networks()[0].clone(dtype=dtype).apply({'params': weights}, z, method='decode')


def embed(weights: PyTree, ids: Int[Array, 'B L']) -> tuple[Float[Array, 'B L D'],
                                                            Float[Array, 'B D']]:
  """Token ids -> what the UNet attends to, and the state at the end of the text."""
  words, pooled, _ = networks()[2].apply({'params': weights['text_model']}, ids)
  return words, pooled


def predict(weights: PyTree, z_t: Float[Array, 'B h w 4'], t: Float[Array, 'B'],
            words: Float[Array, 'B L D'], *, dtype=jnp.float32) -> Float[Array, 'B h w 4']:
  """The UNet's own output at t in [0, 1]."""
  time = t * (SCHEDULER['num_train_timesteps'] - 1)
  return networks()[1].clone(dtype=dtype).apply({'params': weights['unet']}, z_t, time, words)


def schedule() -> NoiseSchedule:
  """The published betas."""
  return ddpm(beta_start=SCHEDULER['beta_start'], beta_end=SCHEDULER['beta_end'],
              steps=SCHEDULER['num_train_timesteps'], kind=SCHEDULER['beta_schedule'])


@functools.cache
def _table() -> np.ndarray:
  """Token of each word of the toybox's vocabulary."""
  vocabulary, _ = byte_pairs()
  return np.array([vocabulary.get(f'{word}</w>', vocabulary[clip_tokens.END])
                   for word in language.VOCABULARY], np.int32)


def tokens(key: Key[Array, ''], item: language.Item, view: Int[Array, '']) -> Int[Array, 'L']:
  """A random caption as the tokenizer has it, 'a red car, front view'; view -1 none. Runs inside
  jit."""
  vocabulary, _ = byte_pairs()
  end = vocabulary[clip_tokens.END]
  said = language.tokens(key, item, jnp.int32(-1))
  n = jnp.sum((said != language.PAD) & (said != language.EOS))     # start and words
  ids = jnp.full(LENGTH, end).at[:language.LENGTH].set(
      jnp.where(jnp.arange(language.LENGTH) < n, jnp.asarray(_table())[said], end))
  ids = ids.at[0].set(vocabulary[clip_tokens.START])
  view_ids = jnp.asarray(_table())[jnp.asarray(language.VIEW_IDS)[view]]
  tail = jnp.array([vocabulary[f'{COMMA}</w>'], *view_ids])
  return jnp.where(view < 0, ids, jax.lax.dynamic_update_slice(ids, tail, (n,))).astype(jnp.int32)


def tokenize(texts: list[str]) -> np.ndarray:
  """Captions as `tokens` writes them, [N, LENGTH] int32: words that are not the toybox's are
  refused by language.parse before."""
  vocabulary, _ = byte_pairs()
  end = vocabulary[clip_tokens.END]
  ids = np.full((len(texts), LENGTH), end, np.int32)
  for row, text in zip(ids, texts):
    words = [clip_tokens.START, *(f'{word}</w>' for word in
                                  text.replace(COMMA, f' {COMMA}').split())]
    row[:len(words)] = [vocabulary[word] for word in words]
  return ids


def blank() -> Int[Array, 'L']:
  """The empty text."""
  return jnp.asarray(tokenize([''])[0])


def save_autoencoder(folder: pathlib.Path, weights: PyTree, *, scale: float,
                     metadata: dict | None = None, dtype: Any = jnp.float16) -> None:
  """Writes vae/; `scale` is what latents are multiplied by to have a variance of 1."""
  write_json(folder / 'vae' / 'config.json', VAE | {'scaling_factor': scale})
  safetensors_io.save(folder / 'vae' / 'diffusion_pytorch_model.safetensors', weights,
                      metadata=metadata, dtype=dtype)


def save(folder: pathlib.Path, weights: PyTree, *, prediction: str, metadata: dict | None = None,
         dtype: Any = jnp.float16) -> None:
  """Writes all but vae/."""
  write_json(folder / 'unet' / 'config.json', UNET)
  safetensors_io.save(folder / 'unet' / 'diffusion_pytorch_model.safetensors', weights['unet'],
                      metadata=metadata, dtype=dtype)
  write_json(folder / 'text_encoder' / 'config.json', text_config())
  safetensors_io.save(folder / 'text_encoder' / 'model.safetensors',
                      {'text_model': weights['text_model']}, dtype=dtype)
  write_tokenizer(folder / 'tokenizer')
  write_json(folder / 'scheduler' / 'scheduler_config.json', SCHEDULER | {
    'prediction_type': prediction})
  write_json(folder / 'model_index.json', INDEX)


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
  unet_weights = safetensors_io.load(folder / 'unet' / 'diffusion_pytorch_model.safetensors',
                                     like['unet'])
  text = safetensors_io.load(folder / 'text_encoder' / 'model.safetensors',
                             {'text_model': like['text_model']})
  return {'unet': unet_weights, **text}
