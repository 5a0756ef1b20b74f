"""The forward process and its algebra: schedules, conversions between predictions, guidance, DDIM.

z_t = alpha(t) z + sigma(t) eps with alpha^2 + sigma^2 = 1 and t in [0, 1]; t = 0 is data, t = 1 is
noise.
Formulas run in float32 whatever the network does. `bcast` lines a vector [N] up with [N, ...].
"""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.types import NoiseSchedule


def bcast(v, x):
  """[N] -> [N, 1, ...] with the rank of x."""
  return v.reshape(v.shape + (1,) * (x.ndim - v.ndim))


def cosine(*, shift: float = 1.) -> NoiseSchedule:
  """Cosine schedule (Nichol & Dhariwal 2021), moved by `shift` in signal-to-noise amplitude for
  larger images (simple diffusion, Hoogeboom et al. 2023, Eq. 10: shift = 32 / 64 at 64 px). tan(pi
  t / 2) = sigma / alpha at shift 1.
  t is cut to [1e-4, 1 - 1e-3], so that neither alpha nor sigma is ever zero."""
  def angle(t):
    t = jnp.clip(t, 1e-4, 1. - 1e-3)
    return jnp.arctan(jnp.tan(.5 * jnp.pi * t) / shift)
  return NoiseSchedule(alpha=lambda t: jnp.cos(angle(t)), sigma=lambda t: jnp.sin(angle(t)))


BETAS = {  # diffusers' beta_schedule, from (beta_start, beta_end, steps)
  'linear': jnp.linspace,
  'scaled_linear': lambda start, end, steps: jnp.linspace(start ** .5, end ** .5, steps) ** 2,
}


# of a last step that is pure noise: diffusers' samplers take 2^-24 for its square
LEAST_ALPHA = 2. ** -12


def ddpm(*, beta_start: float = .00085, beta_end: float = .012, steps: int = 1000,
         kind: str = 'scaled_linear',
         betas: list[float] | None = None, zero_snr: bool = False) -> NoiseSchedule:
  """Discrete schedules, by default Stable Diffusion's, linear in sqrt(beta), or of given `betas`;
  alpha_bar is interpolated between its steps in log space. t = k / (steps - 1) is step k.
  `zero_snr`: shifted and scaled in alpha so that the last step is noise alone (Lin et al. 2023,
  Algorithm 1), but for LEAST_ALPHA."""
  log_alpha = .5 * jnp.cumsum(jnp.log1p(-(BETAS[kind](beta_start, beta_end, steps) if betas is None
                                          else jnp.asarray(betas))))
  if zero_snr:
    alphas = jnp.exp(log_alpha)
    log_alpha = jnp.log(jnp.maximum((alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1]),
                                    LEAST_ALPHA))
  def alpha(t):
    return jnp.exp(jnp.interp(t * (steps - 1), jnp.arange(steps), log_alpha))
  return NoiseSchedule(alpha=alpha, sigma=lambda t: jnp.sqrt(1. - alpha(t) ** 2))


def diffuse(z: Float[Array, 'N *d'], t: Float[Array, 'N'], eps: Float[Array, 'N *d'], *,
            schedule: NoiseSchedule) -> Float[Array, 'N *d']:
  """z_t = alpha z + sigma eps."""
  return bcast(schedule.alpha(t), z) * z + bcast(schedule.sigma(t), z) * eps


def eps_from_x0(x0_hat, z_t, alpha, sigma):
  return (z_t - alpha * x0_hat) / sigma


def eps_from_v(v_hat, z_t, alpha, sigma):
  """v = alpha eps - sigma x0 (Salimans & Ho 2022)."""
  return sigma * z_t + alpha * v_hat


def x0_from_eps(eps_hat, z_t, alpha, sigma):
  return (z_t - sigma * eps_hat) / alpha


class Prediction(NamedTuple):
  """What a network predicts."""
  # (output, z_t, alpha, sigma) -> the noise it amounts to
  eps: Callable[[Array, Array, Array, Array], Array]
  # (alpha, sigma) -> how far the output's error is, over that of this noise
  error: Callable[[Array, Array], Array]


PREDICTIONS = {                          # by diffusers' names
  'epsilon': Prediction(lambda out, z_t, alpha, sigma: out,
                        lambda alpha, sigma: jnp.ones_like(alpha)),
  'v_prediction': Prediction(eps_from_v, lambda alpha, sigma: 1. / alpha),
  'sample': Prediction(eps_from_x0, lambda alpha, sigma: sigma / alpha),
}


def guide(eps_y, eps_null, scale):
  """eps_null + scale (eps_y - eps_null), Ho & Salimans (2022). Scale 1 is the conditional
  prediction alone; DreamFusion's omega, and threestudio's guidance_scale for SDS, are scale - 1."""
  return eps_null + scale * (eps_y - eps_null)


def perp_neg(eps_y, eps_null, eps_neg, weights, scale):
  """Guidance away from other views (Perp-Neg, Armandpour et al. 2023, Eq. 10): of each negative
  prediction only what is perpendicular to the positive direction counts. [N, ...]; eps_neg is a
  list of K, weights [N, K] are negative or 0. K = 0 is `guide`."""
  direction = eps_y - eps_null
  inner = lambda a, b: jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)
  total = direction
  for k, eps in enumerate(eps_neg):
    other = eps - eps_null
    along = inner(other, direction) / jnp.maximum(inner(direction, direction), 1e-12)
    total = total + bcast(weights[:, k], other) * (other - along * direction)
  return eps_null + scale * total


def perp_neg_texts(words: Float[Array, '4 L D'], azimuth: Float[Array, ''],
                   elevation: Float[Array, ''], *, overhead: float = 1.0472
                   ) -> tuple[Float[Array, 'L D'], Float[Array, '2 L D'], Float[Array, '2']]:
  """What Perp-Neg (Armandpour et al. 2023) makes of one view: the text between the words of its two
  nearest sides, two texts that it is not, and their weights, which are negative or 0; constants as
  in threestudio. `overhead` is the elevation above which the view is from above, and nothing is
  denied. Angles are radians."""
  front, side, back, above = words
  # 0 front, 1 side, 2 back
  turn = jnp.abs((azimuth + jnp.pi) % (2. * jnp.pi) - jnp.pi) / (.5 * jnp.pi)
  fading = lambda a, c, r: -(a * jnp.exp(-.5 * r) + c)
  near, far = 1. - turn, 2. - turn
  ahead = turn < 1.
  positive = jnp.where(ahead, near * front + turn * side, far * side + (turn - 1.) * back)
  negatives = jnp.where(ahead, jnp.stack([front, side]), jnp.stack([side, front]))
  weights = jnp.where(ahead, jnp.stack([fading(4., -2.426, near), fading(4., -2.426, turn)]),
                      jnp.stack([fading(1., -.606, far), fading(1., .967, far)]))
  high = elevation > overhead
  return jnp.where(high, above, positive), negatives, jnp.where(high, 0., jnp.minimum(weights, 0.))


def rescale(eps_s, eps_y, *, factor: float):
  """Pull the guided prediction's standard deviation towards the conditional one's (Lin et al. 2023,
  section 3.4).
  Arrays [N, ...]; factor 0 leaves eps_s as it is."""
  axes = tuple(range(1, eps_s.ndim))
  ratio = jnp.std(eps_y, axis=axes, keepdims=True) / jnp.std(eps_s, axis=axes, keepdims=True)
  return (factor * ratio + 1. - factor) * eps_s


def predictions(prior, rows, camera):
  """eps_hat of each of K rows (z_t [N, ...], t [N], text [N, L, D]), all under the same N cameras,
  in one batched call."""
  z_t, t, text = (jnp.concatenate(parts) for parts in zip(*rows))
  repeat = lambda a: jnp.concatenate([a] * len(rows))
  return jnp.split(prior.eps(z_t, t, text, None if camera is None
                             else jax.tree.map(repeat, camera)), len(rows))


def guided(prior, z_t, t, views, *, scale):
  """Classifier-free guidance by the text of `views`, away from the negative prompt, which is the
  empty one unless the config gives another, and from the texts of Perp-Neg where views have some:
  eps_hat [N, ...] at z_t [N, ...], t [N].

      eps_hat = guided(prior, z_t, draws.t, views, scale=7.5)
  """
  eps_hat, = guided_and(prior, z_t, t, views, [], scale=scale)
  return eps_hat


def guided_and(prior, z_t, t, views, places, *, scale):
  """[`guided`, and from the same batch the conditional prediction at each (z_t, t) of `places`]."""
  others = views.perp_neg.texts
  rows = [(z_t, t, text) for text in (views.text, views.negative, *others)] + [
    (*place, views.text) for place in places]
  eps_y, eps_away, *rest = predictions(prior, rows, views.camera)
  return [perp_neg(eps_y, eps_away, rest[:len(others)], views.perp_neg.weights, scale),
          *rest[len(others):]]


def ddim_step(eps_hat, z_t, alpha, sigma, alpha_next, sigma_next):
  """One deterministic DDIM step (Song et al. 2021, Eq. 12) to the next, smaller time; sigma_next =
  0 gives the data."""
  return alpha_next * x0_from_eps(eps_hat, z_t, alpha, sigma) + sigma_next * eps_hat


def ddim(eps, z, times, *, schedule: NoiseSchedule):
  """Deterministic DDIM along descending `times`, then to the data: noise z [N, ...] -> z0_hat.

  `eps(z_t, t [N]) -> eps_hat`, best jitted: the loop is the host's, because XLA's convolutions are
  some forty times slower inside a compiled loop on a CPU.
  """
  for i, t in enumerate(times):
    t, s = jnp.full(z.shape[:1], t), jnp.full(z.shape[:1],
                                              times[i + 1] if i + 1 < len(times) else 0.)
    last = i + 1 == len(times)
    alpha_next = jnp.ones_like(s) if last else schedule.alpha(s)
    sigma_next = jnp.zeros_like(s) if last else schedule.sigma(s)
    z = ddim_step(eps(z, t), z, *(bcast(v, z) for v in (schedule.alpha(t), schedule.sigma(t),
                                                        alpha_next, sigma_next)))
  return z
