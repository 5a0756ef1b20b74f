"""phi = 1: Stein's identity then says that noise has mean zero, and SSD is SDS with a learnt multiple of the noise."""
import jax.numpy as jnp


def constant():
  """(z_t [h, w, c], t [], view) -> phi []."""
  return lambda z_t, t, view: jnp.ones(())
