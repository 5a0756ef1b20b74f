"""phi_i = mean of the eight neighbors of z_t at i: a vector-valued phi whose entry i does not look
at i (leave-one-out), so that h_i = eps_i phi_i has mean zero with no derivative: the diagonal of
phi's Jacobian, the Stein term, is zero by construction."""
import jax.numpy as jnp


def neighbors():
  """(prior, z_t [h, w, c], t [], view) -> phi [h, w, c]; beyond the border is 0."""
  def phi(prior, z_t, t, view):
    h, w, _ = z_t.shape
    padded = jnp.pad(z_t, ((1, 1), (1, 1), (0, 0)))
    around = [padded[1 + i:1 + i + h, 1 + j:1 + j + w] for i in (-1, 0, 1) for j in (-1, 0, 1)
              if (i, j) != (0, 0)]
    return sum(around) / len(around)
  return phi
