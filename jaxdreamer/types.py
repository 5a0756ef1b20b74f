"""The alphabet of jaxdreamer, and the records that flow through one step.

World: z up, the object sits in the unit ball and its front faces +x. Cameras look down -z with y up
(OpenGL).
Angles are radians; `fov` is vertical; azimuth 0 sees the front, azimuth pi/2 stands at +y.
Images are [V, H, W, 3] in [0, 1], NHWC. Diffusion time t is in [0, 1]; `alpha` and `sigma` are
functions of t.

x image, z latent, t time, eps noise, z_t noisy latent, eps_hat its prediction, y text, r residual
(the cotangent at z), w its weight, phi and mu control variate and weight; `density` (never sigma)
and `dist` (never t) along a ray; V views, R rays, S samples; frames in names (`world_from_camera`);
`est` is what an estimator learns for itself.
"""
from typing import Any, Callable, NamedTuple

import flax.struct
from jaxtyping import Array, Float, Int, Key, PyTree


class Camera(NamedTuple):
  """One pinhole camera, or a batch with leading axes. `world_from_camera` is rigid; position is its
  last column."""
  world_from_camera: Float[Array, '*b 4 4']
  fov: Float[Array, '*b']
  azimuth: Float[Array, '*b']
  elevation: Float[Array, '*b']
  distance: Float[Array, '*b']


class Rays(NamedTuple):
  origin: Float[Array, '*b 3']
  direction: Float[Array, '*b 3']      # unit length


class Text(NamedTuple):
  """What a prior's text encoder made of one prompt; built once by `embed`, outside the step. [L, D]
  token embeddings."""
  views: Float[Array, '4 L D']  # prompt with the words front, side, back, overhead (prompts.VIEWS)
  plain: Float[Array, 'L D']           # no view words
  null: Float[Array, 'L D']            # the empty prompt
  negative: Float[Array, 'L D']        # the negative prompt; equals null when none is given
  # one embedding of the whole prompt, where the encoder gives one
  pooled: Float[Array, 'D'] | None = None
  # normal draws: which of a generator's objects for this prompt
  noise: Float[Array, 'Z'] | None = None


class Views(NamedTuple):
  """The views of one step as a prior sees them: cameras, the text row of each, and whether the
  prior may read the camera."""
  camera: Camera                       # [V]
  text: Float[Array, 'V L D']
  plain: Float[Array, 'V L D']
  null: Float[Array, 'V L D']
  negative: Float[Array, 'V L D']
  words: Float[Array, 'V 4 L D'] | None = None  # the rows of all four view words, for Perp-Neg
  # the step's Rendering [V, H, W], held fixed: what a control variate may compare with
  rendering: Any = None


class Rendering(NamedTuple):
  """Everything a ray yields. The last four are per-ray integrands of regularizers."""
  rgb: Float[Array, '*b 3']            # over the background
  opacity: Float[Array, '*b']
  # expected distance along the ray, of the hit part; far where nothing is hit
  depth: Float[Array, '*b']
  normal: Float[Array, '*b 3']         # world frame, weighted by opacity
  orientation: Float[Array, '*b']      # sum_i sg(w_i) max(0, n_i . d)^2, Ref-NeRF Eq. 11
  distortion: Float[Array, '*b']       # mip-NeRF 360 Eq. 15
  z_variance: Float[Array, '*b']       # sum_i w_i (dist_i - depth)^2, HiFA
  # mean of (|slope of distance| - 1)^2; 0 where a scene has none
  eikonal: Float[Array, '*b'] | float = 0.


class Scene(NamedTuple):
  """A differentiable 3D representation.  `field` is written for one point; callers vmap."""
  init: Callable                       # key -> params
  prepare: Callable  # (params, y) -> code; identity for one prompt, a generator for many
  field: Callable  # (code, xyz [3]) -> density [], features [F] (the first three: albedo in [0, 1])
  focus: Callable = lambda code, step: code  # coarse to fine: the code as `step` sees it
  # (code, xyz) -> [], negative inside: the signed distance its density is made of
  distance: Callable | None = None


@flax.struct.dataclass
class NoiseSchedule:
  """z_t = alpha(t) z + sigma(t) eps, alpha^2 + sigma^2 = 1."""
  alpha: Callable = flax.struct.field(pytree_node=False)
  sigma: Callable = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Prior:
  """A frozen 2D diffusion model. A pytree whose only leaves are weights, so they enter jit as
  arguments, not constants."""
  weights: PyTree
  schedule: NoiseSchedule
  image_size: int = flax.struct.field(pytree_node=False)
  latent: tuple = flax.struct.field(pytree_node=False)         # (h, w, c) of an encoded image
  # (weights, x [V,H,W,3]) -> z [V,h,w,c], differentiable
  encode_fn: Callable = flax.struct.field(pytree_node=False)
  decode_fn: Callable = flax.struct.field(pytree_node=False)   # (weights, z) -> x
  # (weights, z_t, t [V], text [V,L,D], camera | None) -> eps_hat
  eps_fn: Callable = flax.struct.field(pytree_node=False)
  # (weights, prompt, negative) -> Text; on the host, once
  embed_fn: Callable = flax.struct.field(pytree_node=False)
  # by the network itself: of diffusion.PREDICTIONS
  predicted: str = flax.struct.field(pytree_node=False, default='epsilon')
  # eps takes a LoRA's parameters beside its own: lora.beside
  branches: bool = flax.struct.field(pytree_node=False, default=False)
  # so many successive rows are views of one scene to eps
  views_per_scene: int = flax.struct.field(pytree_node=False, default=1)
  # (weights, keys [V], x) -> z, or no draw
  sample_fn: Callable | None = flax.struct.field(pytree_node=False, default=None)

  def encode(self, x):
    """Images [V, H, W, 3] in [0, 1] to latents [V, h, w, c]; differentiable."""
    return self.encode_fn(self.weights, x)

  def sample(self, keys, x):
    """A draw of the latents whose mean is encode(x), by a key for each image; the mean itself where
    the prior draws none."""
    return self.sample_fn(self.weights, keys, x) if self.sample_fn else self.encode(x)

  def decode(self, z):
    """Latents [V, h, w, c] to images [V, H, W, 3] in [0, 1]."""
    return self.decode_fn(self.weights, z)

  def eps(self, z_t, t, text, camera):
    """Predicted noise; text [V, L, D] rows from Text; camera [V] or None for a camera-free
    prediction. A camera whose fov is 0 is not told either. Each `views_per_scene` successive rows
    are one scene: one t, one ring of cameras."""
    return self.eps_fn(self.weights, z_t, t, text, camera)

  def embed(self, prompt, negative=''):
    """The Text of a prompt and of a negative prompt; on the host, outside the step."""
    return self.embed_fn(self.weights, prompt, negative)


class Draws(NamedTuple):
  """The random numbers of each (view, draw) of a step, made by sampling.py; an estimator consumes
  no other randomness."""
  t: Float[Array, 'N']
  eps: Float[Array, 'N h w c']
  # importance weight p(t) / q(t), 1 where q = p; times w(t) by the time an estimator sees it
  weight: Float[Array, 'N']
  key: Key[Array, 'N']                 # for whatever more an estimator needs


class Probe(NamedTuple):
  """What an estimator learns from parameter space, where its variance counts: inner products of a
  few cotangents once they are pulled back to the scene's parameters. Every so many steps, of the
  draws of one view: all views have one distribution."""
  every: int                           # steps
  vectors: Callable  # residual's arguments -> [N K h w c], which the step weighs as it does r
  loss: Callable                       # (inner products [M K K], the M draws, est) -> []


class Estimator(NamedTuple):
  """A score-distillation estimator: a residual at z, and what it learns for itself (nothing, for
  most).

  The step multiplies each draw's residual by `weight` and by p(t) / q(t): `residual` has neither.
  """
  residual: Callable                   # (draws, est, prior, z, views, step) -> r [N h w c], info
  init: Callable = lambda key: ()      # key -> est
  loss: Callable = lambda *_: 0.       # residual's arguments -> []
  # w of estimators/weights.py: (schedule, t [N]) -> [N]
  weight: Callable = lambda schedule, t: 1. + 0. * t
  probe: Probe | None = None


@flax.struct.dataclass
class TrainState:
  """All that changes and nothing that does not: the checkpoint is the state. The key never
  advances."""
  step: Int[Array, '']
  params: PyTree                       # {'scene': ..., 'est': ...}
  opt: Any
  key: Key[Array, '']
