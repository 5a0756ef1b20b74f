"""w(t), the weight of a residual at time t: each (schedule, t [N]) -> [N]."""
import jax.numpy as jnp

WEIGHTS = {
  'sigma2': lambda schedule, t: schedule.sigma(t) ** 2,                       # DreamFusion
  'uniform': lambda schedule, t: jnp.ones_like(t),
  'alpha_sigma2': lambda schedule, t: schedule.alpha(t) * schedule.sigma(t) ** 2,       # Fantasia3D
}
