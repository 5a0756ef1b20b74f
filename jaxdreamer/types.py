"""The alphabet of jaxdreamer, and the records that flow through one step.

World: z up, the object sits in the unit ball and its front faces +x. Cameras look down -z with y up
(OpenGL). Angles are radians; `fov` is vertical; azimuth 0 sees the front, azimuth pi/2 stands at
+y. Images are [V, H, W, 3] in [0, 1], NHWC. Diffusion time t is in [0, 1]; `alpha` and `sigma` are
functions of t.

x image, z latent, t time, eps noise, z_t noisy latent, eps_hat its prediction, y text, r residual
(the cotangent at z), w its weight, phi and mu control variate and weight; `density` (never sigma)
and `dist` (never t) along a ray; V views, R rays, S samples; frames in names (`world_from_camera`);
`est` is what an estimator learns for itself.
"""
from typing import Any, Callable, NamedTuple

import flax.struct
from jaxtyping import Array, Float, Int, Key, PyTree

# The signatures that records are made of. Params: what is trained; Code: what a scene makes of it.
Params = PyTree
Code = PyTree
Init = Callable[[Array], Params]                 # key -> params
# (params, Text or None) -> code; identity for one prompt, a generator for many
Prepare = Callable[[Params, Any], Code]
# (code, xyz [3]) -> density [], features [F] (the first three: albedo in [0, 1])
Field = Callable[[Code, Array], tuple[Array, Array]]
Distance = Callable[[Code, Array], Array]        # (code, xyz [3]) -> [], negative inside
# (albedo [3], normal [3], xyz [3]) -> the color [3] that is seen of a point
Shade = Callable[[Array, Array, Array], Array]
Sky = Callable[[Array], Array]                   # direction [3] -> color [3]
Move = Callable[[Array, 'Camera', Any], 'Camera']          # (key, one Camera, step) -> Camera
# (key, ids [V], step) -> Camera [V], Draws, keys [V] for rendering
Sample = Callable[[Array, Array, Any], tuple['Camera', 'Draws', Array]]
# (code, one Camera, key, step) -> its Rendering [H, W]
Render = Callable[[Code, 'Camera', Array, Any], 'Rendering']
# (params, prior, text, Camera [V], keys [V], step) -> z [V h w c], regularizer [], Views, pullback
# that takes the cotangents of z and of the regularizer to params
RenderLatents = Callable[[Params, 'Prior', 'Text', 'Camera', Array, Any],
                         tuple[Array, Array, 'Views', Callable[[Array, Array], Params]]]
# (params, prior, text, Camera [V], Draws [V M], keys [V], step) -> gradient as TrainState.params,
# {name: what to watch}
Gradient = Callable[..., tuple[dict[str, Params], dict[str, Any]]]
Encode = Callable[[Any, Array], Array]           # (weights, x [V H W 3]) -> z [V h w c]
Decode = Callable[[Any, Array], Array]           # (weights, z) -> x
# (weights, keys [V], x) -> z: a draw of the posterior, whose mean is encode's, by each image's key
SampleLatents = Callable[[Any, Array, Array], Array]
# (weights, z_t [V h w c], t [V], text [V L D], camera [V] or None) -> eps_hat [V h w c]
Predict = Callable[[Any, Array, Array, Array, 'Camera | None'], Array]
# (draws of N, est, prior, z [N h w c], views [N], step) -> r [N h w c], {name: what to watch}
Residual = Callable[['Draws', Params, 'Prior', Array, 'Views', Any], tuple[Array, dict[str, Array]]]
Loss = Callable[['Draws', Params, 'Prior', Array, 'Views', Any], Any]      # as Residual's -> []
Rate = Callable[[Array], Array]                  # t [N] -> alpha or sigma [N]


class Camera(NamedTuple):
  """One pinhole camera, or a batch with leading axes. `world_from_camera` is rigid; position is its
  last column."""
  world_from_camera: Float[Array, '*b 4 4']
  fov: Float[Array, '*b']
  azimuth: Float[Array, '*b']
  elevation: Float[Array, '*b']
  distance: Float[Array, '*b']
  # 0 or False where a prior must not look at the camera; None: it may, everywhere
  known: Array | None = None


class Rays(NamedTuple):
  origin: Float[Array, '*b 3']
  direction: Float[Array, '*b 3']      # unit length


class Text(NamedTuple):
  """What a prior's text encoder made of one prompt, once, outside the step. [L, D] embeddings."""
  views: Float[Array, '4 L D']  # prompt with the words front, side, back, overhead (prompts.VIEWS)
  plain: Float[Array, 'L D']           # no view words
  null: Float[Array, 'L D']            # the empty prompt
  negative: Float[Array, 'L D']        # the negative prompt; equals null when none is given
  pooled: Float[Array, 'D'] | None = None        # one embedding of the whole prompt, if any
  # normal draws: which of a generator's objects for this prompt
  noise: Float[Array, 'Z'] | None = None
  # of what restores pictures: a degraded one and the true one
  pair: Float[Array, '2 H W 3'] | None = None


class PerpNeg(NamedTuple):
  """What Perp-Neg leads away from: K texts of each view, and their weights, negative or 0. K = 0 is
  plain guidance."""
  texts: tuple[Float[Array, 'V L D'], ...] = ()
  weights: Float[Array, 'V K'] | None = None


class Views(NamedTuple):
  """The views of one step as a prior is asked about them: cameras, and the text rows of each. Texts
  of one prompt are made into it by conditioning.condition."""
  camera: Camera | None                # [V]
  text: Float[Array, 'V L D']          # the prompt with the words of the view
  plain: Float[Array, 'V L D']
  null: Float[Array, 'V L D']
  negative: Float[Array, 'V L D']
  perp_neg: PerpNeg = PerpNeg()
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
  # of the mesh that is seen, see meshes/topology.py; 0 where a scene has none
  normal_consistency: Float[Array, ''] | float = 0.
  laplacian: Float[Array, ''] | float = 0.
  # parts of a mesh that found no room in arrays of fixed size; None where a scene has none
  dropped: Float[Array, ''] | None = None


class Scene(NamedTuple):
  """A differentiable 3D representation. `field` is written for one point; callers vmap.

      code = scene.focus(scene.prepare(scene.init(key), text), step)
      density, features = scene.field(code, jnp.zeros(3))
  """
  init: Init
  prepare: Prepare
  field: Field
  # coarse to fine: the code as `step` sees it
  focus: Callable[[Code, Any], Code] = lambda code, step: code
  distance: Distance | None = None               # the signed distance its density is made of
  # a renderer of its own in place of render.image:
  # (code, one Camera, size=, background=Sky, shade=Shade) -> its Rendering [size, size]
  render: Callable[..., 'Rendering'] | None = None
  mesh: Callable[[Code], Any] | None = None      # its own surface: code -> topology.Mesh
  # (params, an Object of another kind of scene) -> params that look as nearly like it as they can
  adopt: Callable[[Params, Any], Params] | None = None
  given: Any = None                    # the user's own mesh that it colors, a meshes.files.Given
  latents: RenderLatents | None = None # made by itself, in place of a render that is encoded
  # (code, xyz [3]) -> []: what a ray's section loses of it is its optical depth, as in NeuS
  clearness: Callable[[Code, Array], Array] | None = None


@flax.struct.dataclass
class NoiseSchedule:
  """z_t = alpha(t) z + sigma(t) eps, alpha^2 + sigma^2 = 1."""
  alpha: Rate = flax.struct.field(pytree_node=False)
  sigma: Rate = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Prior:
  """A frozen 2D diffusion model. A pytree whose only leaves are weights, so they enter jit as
  arguments, not constants.

      text = prior.embed('a red cube')
      eps_hat = prior.eps(z_t, t, text.plain[None], None)        # z_t [1, h, w, c], t [1]
  """
  weights: PyTree
  schedule: NoiseSchedule
  image_size: int = flax.struct.field(pytree_node=False)
  latent: tuple[int, int, int] = flax.struct.field(pytree_node=False)  # of an encoded image, h w c
  encode_fn: Encode = flax.struct.field(pytree_node=False)             # differentiable
  decode_fn: Decode = flax.struct.field(pytree_node=False)
  eps_fn: Predict = flax.struct.field(pytree_node=False)
  # (weights, prompt, negative) -> Text; on the host, once
  embed_fn: Callable[[Any, str, str], Text] = flax.struct.field(pytree_node=False)
  # a key of diffusion.PREDICTIONS
  predicted: str = flax.struct.field(pytree_node=False, default='epsilon')
  # eps takes a LoRA's parameters beside its own: lora.beside
  branches: bool = flax.struct.field(pytree_node=False, default=False)
  # so many successive rows are views of one scene to eps
  views_per_scene: int = flax.struct.field(pytree_node=False, default=1)
  sample_fn: SampleLatents | None = flax.struct.field(pytree_node=False, default=None)

  def encode(self, x: Float[Array, 'V H W 3']) -> Float[Array, 'V h w c']:
    """Images in [0, 1] -> latents, differentiable."""
    return self.encode_fn(self.weights, x)

  def sample(self, keys: Key[Array, 'V'],
             x: Float[Array, 'V H W 3']) -> Float[Array, 'V h w c']:
    """A draw of the latents of mean encode(x), by each image's key; that mean where none is."""
    return self.sample_fn(self.weights, keys, x) if self.sample_fn else self.encode(x)

  def decode(self, z: Float[Array, 'V h w c']) -> Float[Array, 'V H W 3']:
    """Latents -> images."""
    return self.decode_fn(self.weights, z)

  def eps(self, z_t: Float[Array, 'V h w c'], t: Float[Array, 'V'], text: Float[Array, 'V L D'],
          camera: Camera | None) -> Float[Array, 'V h w c']:
    """Predicted noise; text rows from Text; camera None for a camera-free prediction, which is that
    of each camera that is not `known`, too. Each `views_per_scene` successive rows are one scene:
    one t, one ring of cameras."""
    return self.eps_fn(self.weights, z_t, t, text, camera)

  def embed(self, prompt: str, negative: str = '') -> Text:
    """What the text encoder makes of a prompt and of what guidance leads away from; on the
    host."""
    return self.embed_fn(self.weights, prompt, negative)


class Draws(NamedTuple):
  """The random numbers of each (view, draw) of a step, made by sampling.py; an estimator consumes
  no other randomness."""
  t: Float[Array, 'N']
  eps: Float[Array, 'N h w c']
  weight: Float[Array, 'N']            # w(t) p(t) / q(t): the step multiplies the residual by it
  key: Key[Array, 'N']                 # for whatever more an estimator needs
  t_min: Float[Array, 'N']             # the least t that this step draws


class Estimator(NamedTuple):
  """A score-distillation estimator: a residual at z, and what it learns for itself (nothing, for
  most). It knows nothing of the run: the step multiplies r by the weight of each draw.

      def raw():
        def residual(draws, est, prior, z, views, step):
          z_t = diffuse(z, draws.t, draws.eps, schedule=prior.schedule)
          return prior.eps(z_t, draws.t, views.text, views.camera), {}
        return Estimator(residual)
  """
  residual: Residual
  init: Callable[[Array, Prior], Params] = lambda key, prior: ()         # -> est
  loss: Loss = lambda *_: 0.
  weight: str | None = None            # the w(t) it asks for, whatever config.sampling.weight is
  load: Callable[[], dict[str, Any]] = dict      # more weights that prior.weights are to hold


@flax.struct.dataclass
class TrainState:
  """All that changes and nothing that does not: the checkpoint is the state. The key never
  advances."""
  step: Int[Array, '']
  params: PyTree                       # {'scene': ..., 'est': ...}
  opt: Any
  key: Key[Array, '']
