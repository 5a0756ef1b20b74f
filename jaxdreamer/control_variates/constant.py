"""phi = 1: Stein's identity then says that noise has mean zero, and SSD is SDS with a learned
multiple of the noise."""
import jax.numpy as jnp


def constant():
  """(prior, z_t [h, w, c], t [], view) -> phi []."""
  return lambda prior, z_t, t, view: jnp.ones(())
