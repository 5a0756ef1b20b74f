"""What all fields share: density activations, the blob a scene starts from, and normals.

A field maps one point xyz [3] of the unit ball to (density [], features [F]), features[:3] = albedo
in [0, 1].
A normals function maps (field, xyz) to (density, features, normal [3]); the normal is -grad density
/ |grad density|.
"""
from typing import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Point = Float[Array, '3']
Scalar = Float[Array, '']
Colored = Callable[[Point], tuple[Scalar, Array]]          # xyz -> density, features [F]
Signed = Callable[[Point], Scalar]                         # xyz -> distance, negative inside
Normals = Callable[[Colored, Point], tuple[Scalar, Array, Point]]


def dot(a: Point, b: Point) -> Scalar:
  """a . b, written out: under vmap three products fuse with their neighbors, a reduction over 3
  does not."""
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def length(v: Point) -> Scalar:
  """|v| with a finite derivative at 0."""
  return jnp.sqrt(jnp.maximum(dot(v, v), 1e-12))


@jax.custom_jvp
def trunc_exp(x: Scalar) -> Scalar:
  """exp whose derivative stops growing at x = 15 (torch-ngp)."""
  return jnp.exp(x)


@trunc_exp.defjvp
def _trunc_exp_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  return jnp.exp(x), jnp.exp(jnp.minimum(x, 15.)) * dx


ACTIVATIONS = {'softplus': jax.nn.softplus, 'exp': jnp.exp, 'trunc_exp': trunc_exp}


def cone_blob(xyz: Point, *, strength: float, radius: float) -> Scalar:
  """strength (1 - |xyz| / radius), added before the activation (Magic3D: 10, .5)."""
  return strength * (1. - length(xyz) / radius)


def gauss_blob(xyz: Point, *, strength: float, radius: float) -> Scalar:
  """strength exp(-|xyz|^2 / (2 radius^2)), added before the activation (DreamFusion A.2: 5, .2)."""
  return strength * jnp.exp(-.5 * dot(xyz, xyz) / radius ** 2)


BLOBS = {'cone': cone_blob, 'gauss': gauss_blob}


def split_raw(raw: Float[Array, 'n'], bias: Scalar,
              activation: Callable[[Array], Array]) -> tuple[Scalar, Float[Array, 'n-1']]:
  """(density, features) of a field's raw output: its first channel is density; the others become
  colors."""
  return activation(raw[0] + bias), jax.nn.sigmoid(raw[1:])


def dense_init(key: Key[Array, ''], n_in: int, n_out: int, *, gain: float = 2.) -> dict:
  """A linear layer: He et al. (2015) for gain 2."""
  return {'kernel': jnp.sqrt(gain / n_in) * jax.random.normal(key, (n_in, n_out)),
          'bias': jnp.zeros(n_out)}


def dense(params: dict, h: Float[Array, 'n']) -> Float[Array, 'm']:
  """One linear layer."""
  return h @ params['kernel'] + params['bias']


def network(kernels: list, h: Float[Array, 'n']) -> Float[Array, 'm']:
  """ReLU layers without biases."""
  for kernel in kernels[:-1]:
    h = jax.nn.relu(h @ kernel)
  return h @ kernels[-1]


def network_init(key: Key[Array, ''], sizes: tuple[int, ...]) -> list:
  """Kernels from sizes[0] inputs to sizes[-1] outputs, uniform within 1 / sqrt(inputs), as
  threestudio's: torch's own start."""
  return [jax.random.uniform(k, (a, b), minval=-a ** -.5, maxval=a ** -.5)
          for k, a, b in zip(jax.random.split(key, len(sizes) - 1), sizes, sizes[1:])]


def octaves(v: Float[Array, 'd'], n: int) -> Float[Array, 'n 2*d']:
  """sin and cos of 2^k v for k < n, one octave a row (NeRF Eq. 4, without its pi)."""
  phase = 2. ** jnp.arange(n)[:, None] * v[None]
  return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], 1)


def eikonal(distance: Signed, xyz: Point, *, step: float = .01) -> Scalar:
  """(|grad distance| - 1)^2, by forward differences: 0 for a true distance (Gropp et al. 2020)."""
  here = distance(xyz)
  slope = jnp.stack([distance(xyz + d) - here for d in step * jnp.eye(3)]) / step
  return (length(slope) - 1.) ** 2


def gradient_normals(field: Colored, xyz: Point) -> tuple[Scalar, Float[Array, 'F'], Point]:
  """The exact normal of the field, by automatic differentiation."""
  (density, features), grad = jax.value_and_grad(field, has_aux=True)(xyz)
  return density, features, -grad / length(grad)


def forward_normals(field: Colored, xyz: Point, *,
                    step: float = .01) -> tuple[Scalar, Float[Array, 'F'], Point]:
  """Forward differences (ScaleDreamer): three more field evaluations, the slope half a step further
  on."""
  density, features = field(xyz)
  grad = jnp.stack([field(xyz + d)[0] - density for d in step * jnp.eye(3)]) / step
  return density, features, -grad / length(grad)


def difference_normals(field: Colored, xyz: Point, *,
                       step: float = .01) -> tuple[Scalar, Float[Array, 'F'], Point]:
  """Central differences (threestudio): smoother than the exact normal, six more field
  evaluations."""
  density, features = field(xyz)
  offsets = step * jnp.eye(3)
  grad = jnp.stack([field(xyz + d)[0] - field(xyz - d)[0] for d in offsets]) / (2. * step)
  return density, features, -grad / length(grad)
