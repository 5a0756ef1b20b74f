"""A control variate from a function phi of the noisy image, by Stein's identity: estimators/ssd.py
has it, and says what is wrong with the form that SteinDreamer prints."""
from typing import Callable

import jax

from jaxdreamer.diffusion import bcast

FORMS = {'stein': lambda sigma, eps, phi, slope: eps * phi - sigma * slope,
         'printed': lambda sigma, eps, phi, slope: eps * phi + slope}


def variate(phi: Callable, z_t, t, eps, sigma, views, *, form: str = 'stein'):
  """h [N, h, w, c] of one phi for N draws; `sigma` is [N]. A phi that returns [h, w, c] must not
  see z_t[i] in its entry i."""
  if jax.eval_shape(jax.vmap(phi), z_t, t, views).ndim > 1:
    return eps * jax.vmap(phi)(z_t, t, views)
  value, slope = jax.vmap(jax.value_and_grad(phi))(z_t, t, views)
  return FORMS[form](bcast(sigma, eps), eps, bcast(value, eps), slope)
