"""What the priors of published latent diffusion models share: the forward process, the autoencoder, the text encoder.

Latents are scaling_factor times the posterior's mean, or a draw of it; the image is resized to the model's own pixels on the way
in. `section` is the name of a prior's options in the config, for errors: FileNotFoundError or ValueError, one line.
"""
import hashlib
import json
import pathlib
from functools import partial
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxdreamer import prompts
from jaxdreamer.diffusion import BETAS, PREDICTIONS, bcast, ddpm
from jaxdreamer.nn import blueprints, clip, clip_tokens, folder, safe_files, tensors, vae
from jaxdreamer.types import Schedule

FIXED = {'trained_betas': None, 'rescale_betas_zero_snr': False, 'variance_type': 'fixed_small', 'thresholding': False}
# How a sampler walks, or what it does with x0: not the forward process that is distilled.
SAMPLER = '''
  clip_sample clip_sample_range set_alpha_to_one skip_prk_steps steps_offset timestep_spacing sample_max_value
  dynamic_thresholding_ratio interpolation_type use_karras_sigmas timestep_type sigma_min sigma_max final_sigmas_type
  solver_order algorithm_type solver_type lower_order_final euler_at_final use_lu_lambdas lambda_min_clipped
'''.split()


class Forward(NamedTuple):
  """The forward process of a model, and what its network predicts of it: a key of diffusion.PREDICTIONS."""
  schedule: Schedule
  steps: int
  predicted: str

  def timestep(self, t):
    """t in [0, 1] -> the network's own count of time."""
    return t * (self.steps - 1)

  def eps(self, out, z_t, t):
    """The network's output as noise."""
    return PREDICTIONS[self.predicted].eps(out, z_t, bcast(self.schedule.alpha(t), z_t), bcast(self.schedule.sigma(t), z_t))


class Coder(NamedTuple):
  """An autoencoder and its weights."""
  weights: PyTree
  pixels: int                            # of a side of the image that it takes
  latent: tuple[int, int, int]
  encode: Callable                       # (weights, x [V, H, W, 3]) -> z [V, h, w, c], differentiable: the posterior's mean
  sample: Callable                       # (weights, keys [V], x) -> z: a draw of the posterior by each image's key
  decode: Callable                       # (weights, z) -> x


def opened(path: str, *, model: str, sha256: str, wanted: str) -> dict[str, Any]:
  """The parts of the model at `path`; those of the blueprint `model` where the path is blueprints.SHAPES. `wanted` says what to
  put where nothing is."""
  if not path:
    raise FileNotFoundError(f'{wanted}; it is empty')
  return blueprints.parts(model) if path == blueprints.SHAPES else folder.open_model(path, sha256=sha256 or None)


def schedule_of(scheduler: dict) -> Forward:
  """The forward process of a scheduler_config.json. ValueError lists what it asks for and these priors lack."""
  known = {'beta_start', 'beta_end', 'beta_schedule', 'num_train_timesteps', 'prediction_type'}
  foreign = {k: v for k, v in scheduler.items()
             if k not in known and k not in SAMPLER and not k.startswith('_') and FIXED.get(k, ()) != v}
  kind, prediction = scheduler.get('beta_schedule', 'linear'), scheduler.get('prediction_type', 'epsilon')
  if kind not in BETAS:
    foreign['beta_schedule'] = kind
  if prediction not in PREDICTIONS:
    foreign['prediction_type'] = prediction
  if foreign:
    raise ValueError(f'this prior cannot serve a checkpoint whose scheduler_config.json says {foreign}')
  steps = scheduler.get('num_train_timesteps', 1000)
  schedule = ddpm(beta_start=scheduler.get('beta_start', 1e-4), beta_end=scheduler.get('beta_end', .02), steps=steps, kind=kind)
  return Forward(schedule, steps, prediction)


def coder(part: folder.Part, *, side: int, dtype: Any) -> Coder:
  """The autoencoder of a model whose latents are `side` wide."""
  config = vae.config_from_diffusers(part.config)
  pixels = side * 2 ** (len(config.block_out_channels) - 1)
  network = vae.AutoencoderKL(config, dtype)
  like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, pixels, pixels, 3)))['params']

  def posterior(weights, x):
    x = jax.image.resize(x, (len(x), pixels, pixels, 3), 'bilinear')
    return network.apply({'params': weights}, 2. * x - 1., method='encode')

  def encode(weights, x):
    return config.scaling_factor * posterior(weights, x).mean

  def sample(weights, keys, x):
    one = lambda key, mean, logvar: vae.sample(key, vae.Posterior(mean[None], logvar[None]))[0]
    return config.scaling_factor * jax.vmap(one)(keys, *posterior(weights, x))

  def decode(weights, z):
    return .5 + .5 * network.apply({'params': weights}, z / config.scaling_factor, method='decode')

  return Coder(folder.load_part(part, like, dtype=dtype), pixels, (side, side, config.latent_channels), encode, sample, decode)


def rows(parts: dict, phrases: list[str], *, tokenizer: str, section: str
         ) -> tuple[Float[Array, 'N 77 D'], Float[Array, 'N D']]:
  """What the one text encoder of a model makes of the phrases: their words, and each as a whole."""
  where, option = tokenizer or parts.get('tokenizer'), f'{section}.tokenizer'
  def make(phrases):
    words, pooled, _ = encode_text(clip.CLIPTextModel, parts['text_encoder'], phrases, tokenizer=where, option=option)
    return jnp.concatenate([words, pooled[:, None]], 1)
  both = stored(parts, ('text_encoder',), (where,), phrases, make)
  return both[:, :-1], both[:, -1]


def stored(parts: dict, names: tuple[str, ...], tokenizers: tuple, phrases: list[str], make: Callable) -> Float[Array, 'N L D']:
  """make(phrases), computed once and then kept on disk, by the weights of the text encoders `names`, by where their tokenizers
  are and by the phrases."""
  if parts[names[0]].file is None:
    return make(phrases)
  told = [*(parts[name].config for name in names), [str(where) for where in tokenizers], phrases]
  mark = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
  for file in (file for name in names for file in tensors.files_of(parts[name].file)):
    mark.update(safe_files.sha256_of(file).encode())
  return jnp.asarray(prompts.stored(mark.hexdigest(), partial(make, phrases)))


def encode_text(network: Callable, part: folder.Part, phrases: list[str], *, tokenizer: str | pathlib.Path | None,
                option: str) -> tuple[Array, ...]:
  """All that a text tower, of a class of clip.py, returns for the phrases; its weights are let go afterwards. `option` is
  where the config names the tokenizer's folder."""
  model = network(clip.config_from_transformers(part.config))
  if part.file is None:
    ids = jax.ShapeDtypeStruct((len(phrases), 77), jnp.int32)
    shapes, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), ids)
    return tuple(jnp.zeros(shape.shape) for shape in shapes)
  if not tokenizer:
    raise FileNotFoundError(f'{option} is empty, and a single file holds no tokenizer: give the folder of one, with vocab.json and '
                            'merges.txt')
  ids = jnp.asarray(clip_tokens.load(tokenizer)(phrases))
  weights = folder.load_part(part, jax.eval_shape(model.init, jax.random.key(0), ids)['params'], dtype=jnp.float32)
  return jax.jit(lambda w, ids: model.apply({'params': w}, ids))(weights, ids)
