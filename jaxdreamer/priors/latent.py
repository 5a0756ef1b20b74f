"""What the priors of published latent diffusion models share: the forward process, the autoencoder,
the text encoder.

Latents are scaling_factor times the posterior's mean, or a draw of it; the image is resized to the
model's own pixels on the way in. `section` is the name of a prior's options in the config, for
errors: FileNotFoundError or ValueError, one line.
"""
import hashlib
import json
import pathlib
import warnings
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxdreamer import prompts
from jaxdreamer.diffusion import BETAS, PREDICTIONS, bcast, ddpm
from jaxdreamer.nn import clip, vae
from jaxdreamer.types import Decode, Encode, NoiseSchedule, Predict, Prior, SampleLatents, Text
from jaxdreamer.weights import clip_tokens, loras, model_shapes, safe_files, tensor_files
from jaxdreamer.weights.diffusers_folder import Part, load_part, open_model

# Of a scheduler_config.json only what changes the forward process counts; how its sampler walks
# does not. {field: what it may be}, else the process is another one than z_t = alpha z + sigma eps
# over the steps of betas.
SERVED = {
  'use_flow_sigmas': (False,), 'timestep_type': ('discrete',), 'snr_shift_scale': (1.,),
  'sigma_data': (), 'shift': (1.,),
  # the UNet learns no variance
  'variance_type': ('fixed_small', 'fixed_small_log', 'fixed_large', 'fixed_large_log'),
}
# diffusers' classes over betas, with their own defaults for what a file leaves out.
LATE = {'beta_start': .00085, 'beta_end': .012}
SAMPLERS: dict[str | None, dict[str, Any]] = {**dict.fromkeys((
  'DDIMScheduler', 'DDIMInverseScheduler', 'DDIMParallelScheduler', 'DDPMScheduler',
  'DDPMParallelScheduler',
  'DEISMultistepScheduler', 'DPMSolverMultistepScheduler', 'DPMSolverMultistepInverseScheduler',
  'DPMSolverSinglestepScheduler',
  'EulerAncestralDiscreteScheduler', 'EulerDiscreteScheduler', 'LMSDiscreteScheduler',
  'PNDMScheduler', 'SASolverScheduler',
  'UniPCMultistepScheduler'), {}), **dict.fromkeys((
  'DPMSolverSDEScheduler', 'HeunDiscreteScheduler', 'KDPM2AncestralDiscreteScheduler',
  'KDPM2DiscreteScheduler'), LATE
), **dict.fromkeys(('LCMScheduler', 'TCDScheduler'), LATE | {'beta_schedule': 'scaled_linear'})}
BETAS_OF = ('beta_start', 'beta_end', 'beta_schedule')


class Forward(NamedTuple):
  """The forward process of a model, and what its network predicts of it: a key of
  diffusion.PREDICTIONS."""
  schedule: NoiseSchedule
  steps: int
  predicted: str

  def timestep(self, t):
    """t in [0, 1] -> the network's own count of time."""
    return t * (self.steps - 1)

  def eps(self, out, z_t, t):
    """The network's output as noise."""
    return PREDICTIONS[self.predicted].eps(out, z_t, bcast(self.schedule.alpha(t), z_t),
                                           bcast(self.schedule.sigma(t), z_t))


class Coder(NamedTuple):
  """An autoencoder and its weights."""
  weights: PyTree
  pixels: int                            # of a side of the image that it takes
  latent: tuple[int, int, int]
  encode: Encode                         # differentiable: the posterior's mean
  sample: SampleLatents
  decode: Decode


def opened(path: str, *, model: str, sha256: str, wanted: str, lora: str = '',
           lora_scale: float = 1.) -> dict[str, Any]:
  """The parts of the model at `path`, with the LoRA file `lora` added where one is given; those of
  `model` without weights where the path is model_shapes.SHAPES. `wanted` says what to put where
  nothing is."""
  if not path:
    raise FileNotFoundError(f'{wanted}; it is empty')
  if path == model_shapes.SHAPES:
    return model_shapes.parts(model)
  parts = open_model(path, sha256=sha256 or None)
  return loras.added(parts, lora, scale=lora_scale,
                     option='config.prior.lora') if lora else parts


def known(name: Any, table: Mapping[Any, Any]) -> bool:
  """Whether what a file says, which may be anything, is a name in a table."""
  return isinstance(name, str) and name in table


def schedule_of(scheduler: dict) -> Forward:
  """The forward process of a scheduler_config.json. ValueError lists what it asks for and these
  priors lack."""
  said, sampler = {k: v for k, v in scheduler.items() if v is not None}, scheduler.get(
      '_class_name')
  values = {'beta_start': 1e-4, 'beta_end': .02, 'beta_schedule': 'linear',
            'num_train_timesteps': 1000,
            'prediction_type': 'epsilon', 'trained_betas': None} | (
                SAMPLERS[sampler] if known(sampler, SAMPLERS) else {}) | said
  kind, steps, betas = (values[k] for k in ('beta_schedule', 'num_train_timesteps',
                                            'trained_betas'))
  foreign = {k: said[k] for k, served in SERVED.items() if k in said and said[k] not in served}
  if sampler is not None and not known(sampler, SAMPLERS) and betas is None and not all(
      k in said for k in BETAS_OF):
    # a class that has no betas, or whose defaults are not known here
    foreign['_class_name'] = sampler
  if not known(values['prediction_type'], PREDICTIONS):
    foreign['prediction_type'] = values['prediction_type']
  if not isinstance(steps, int) or steps < 1:
    foreign['num_train_timesteps'] = steps
  if betas is None and not known(kind, BETAS):
    foreign['beta_schedule'] = kind
  if betas is not None and (not isinstance(betas, list) or len(betas) != steps):
    foreign['trained_betas'] = betas
  numbers = betas if isinstance(betas, list) else [values['beta_start'], values['beta_end']]
  if not foreign and not all(isinstance(b, float | int) and 0. < b < 1. for b in numbers):
    foreign |= {'trained_betas': betas} if betas else {k: values[k] for k in BETAS_OF[:2]}
  if foreign:
    raise ValueError(f'this prior cannot serve a checkpoint whose scheduler_config.json says '
                     f'{str(foreign)[:1000]}: its forward '
                     f'process is not one of betas {[*BETAS]} and a prediction '
                     f'{sorted(PREDICTIONS)}')
  schedule = ddpm(beta_start=values['beta_start'], beta_end=values['beta_end'], steps=steps,
                  kind=kind, betas=betas,
                  zero_snr=bool(values.get('rescale_betas_zero_snr')))
  return Forward(schedule, steps, values['prediction_type'])


def predicting(scheduler: dict, prediction: str, *, path: str, section: str) -> dict:
  """The scheduler's config with what the UNet predicts, as the option `section`.prediction has it
  where that is given. ValueError where neither says it."""
  if prediction and prediction not in PREDICTIONS:
    raise ValueError(f'{section}.prediction={prediction!r}: takes one of {sorted(PREDICTIONS)}')
  if not prediction and scheduler.get('prediction_type', 'epsilon') is None:
    raise ValueError(f'{path} does not say what its UNet predicts, or says two things: '
                     f'{section}.prediction takes one of '
                     f"{sorted(PREDICTIONS)}; Stable Diffusion 2.1's 768 px model is the "
                     "v_prediction")
  return scheduler | ({'prediction_type': prediction} if prediction else {})


def precision(dtype: str) -> jnp.dtype:
  """'auto' is bfloat16, float32 on a CPU, which is twice as fast in it (benchmarks.unet)."""
  automatic = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  return jnp.dtype(automatic if dtype == 'auto' else dtype)


def coder(part: Part, *, side: int, dtype: Any) -> Coder:
  """The autoencoder of a model whose latents are `side` wide."""
  config = vae.config_from_diffusers(part.config)
  pixels = side * 2 ** (len(config.block_out_channels) - 1)
  network = vae.AutoencoderKL(config, dtype)
  apply: Callable[..., Any] = network.apply      # of one value, as no collection is mutable
  like = jax.eval_shape(network.init, jax.random.key(0),
                        jnp.zeros((1, pixels, pixels, 3)))['params']

  def posterior(weights, x):
    x = jax.image.resize(x, (len(x), pixels, pixels, 3), 'bilinear')
    return apply({'params': weights}, 2. * x - 1., method='encode')

  def encode(weights, x):
    return config.scaling_factor * posterior(weights, x).mean

  def sample(weights, keys, x):
    one = lambda key, mean, logvar: vae.sample(key, vae.Posterior(mean[None], logvar[None]))[0]
    return config.scaling_factor * jax.vmap(one)(keys, *posterior(weights, x))

  def decode(weights, z):
    return .5 + .5 * apply({'params': weights}, z / config.scaling_factor, method='decode')

  return Coder(load_part(part, like, dtype=dtype), pixels,
               (side, side, config.latent_channels), encode, sample, decode)


def as_prior(weights: dict, forward: Forward, coder: Coder, eps: Predict,
             embed: Callable[[Any, str, str], Text], *, image_size: int, sample: bool,
             views_per_scene: int = 1) -> Prior:
  """The Prior of `weights`, whose autoencoder's are 'vae', with the network as `eps` and the text
  encoder as `embed`, as in Prior. `sample`: training sees draws of the autoencoder's posterior."""
  return Prior(weights, forward.schedule, image_size, coder.latent,
               lambda weights, x: coder.encode(weights['vae'], x),
               lambda weights, z: coder.decode(weights['vae'], z), eps, embed,
               predicted=forward.predicted, branches=True, views_per_scene=views_per_scene,
               sample_fn=(lambda weights, keys, x: coder.sample(weights['vae'], keys, x))
               if sample else None)


def rows(parts: dict, phrases: list[str], *, tokenizer: str, section: str
         ) -> tuple[Float[Array, 'N L D'], Float[Array, 'N D']]:
  """What the one text encoder of a model makes of the phrases: their words, and each as a whole."""
  ids = tokens(parts['text_encoder'], phrases, tokenizer=tokenizer or parts.get('tokenizer'),
               option=f'{section}.tokenizer')
  def make():
    words, pooled, _ = encode_text(clip.CLIPTextModel, parts['text_encoder'], ids)
    return jnp.concatenate([words, pooled[:, None]], 1)
  both = stored([parts['text_encoder']], [ids], make)
  return both[:, :-1], both[:, -1]


def tokens(part: Part, phrases: list[str], *, tokenizer: str | pathlib.Path | None,
           option: str,
           warn: bool = True) -> Int[np.ndarray, 'N L']:
  """The phrases as a text tower takes them; view words at their end are never cut. `option` is
  where the config names the tokenizer's folder; without `warn` nothing is said of a phrase that is
  too long."""
  if part.file is None:
    return np.zeros((len(phrases), 77), np.int32)
  if not tokenizer:
    raise FileNotFoundError(f'{option} is empty, and a single file holds no tokenizer: give the '
                            'folder of one, with vocab.json and '
                            'merges.txt, or tokenizer.json')
  with warnings.catch_warnings():
    if not warn:
      warnings.simplefilter('ignore', UserWarning)
    return clip_tokens.load(tokenizer)(phrases, ends=prompts.ENDS)


def stored(towers: Sequence[Part], ids: Sequence[Int[np.ndarray, 'N T']],
           make: Callable[[], Array]) -> Float[Array, 'N L D']:
  """make(), computed once and then kept on disk, by the weights of the text towers and by what each
  is given."""
  mark = hashlib.sha256(json.dumps([tower.config for tower in towers], sort_keys=True).encode())
  for tower, given in zip(towers, ids):
    if tower.file is None:
      return make()
    for file in tensor_files.files_of(tower.file):
      mark.update(safe_files.known_sha256(file).encode())
    for key, change in sorted(tower.changes.items()):
      mark.update(f'{key} {change.scale!r}'.encode() + change.up.tobytes() + change.down.tobytes())
    mark.update(np.asarray(given, np.int32).tobytes())
  return jnp.asarray(prompts.stored(mark.hexdigest(), make))


def encode_text(network: Callable[..., Any], part: Part, ids: Int[np.ndarray, 'N L']) -> tuple[
    Array, ...]:
  """All that a text tower, of a class of clip.py, returns for tokens; its weights are let go
  afterwards."""
  model = network(clip.config_from_transformers(part.config))
  if part.file is None:
    shapes, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), ids)
    return tuple(jnp.zeros(shape.shape) for shape in shapes)
  weights = load_part(part, jax.eval_shape(model.init, jax.random.key(0), ids)['params'],
                      dtype=jnp.float32)
  return jax.jit(lambda w, ids: model.apply({'params': w}, ids))(weights, ids)
