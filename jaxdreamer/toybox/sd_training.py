"""What trains toybox-sd, and toybox-mvdream after it: a ring of latents, captions, the loss, the
optimizer."""
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float16, Int, UInt8
from optax import contrib

from jaxdreamer.diffusion import PREDICTIONS, bcast, diffuse
from jaxdreamer.toybox import geometry, meaning, render_buffer, sd, sd_text, trainer, views, world

SCHEDULE = sd.schedule()
OBJECT_WEIGHT = 4.   # of a place of the object, beside the 1 of every place


class Ring(NamedTuple):
  """Latents of pictures, whose background they keep: to encode costs as much as a step."""
  mean: Float16[Array, 'P h w 4']                # of a variance of 1
  spread: Float16[Array, 'P h w 4']              # the posterior's deviation
  mask: UInt8[Array, 'P h w']
  item: world.Item                               # [P]
  view: Int[Array, 'P']                          # its words, as views.view_bin


def latents(pool, back, autoencoder, scale):
  """What the ring holds of renders, each over its background."""
  n = len(pool.rgb)
  posterior = sd.encode(autoencoder, jax.vmap(render_buffer.composite)(pool.rgb, pool.mask, back))
  mask = pool.mask.reshape(n, sd.SIDE, sd.SIZE // sd.SIDE, sd.SIDE, -1)
  half = lambda a: (scale * a).astype(jnp.float16)
  return Ring(half(posterior.mean), half(jnp.exp(.5 * posterior.logvar)),
              jnp.mean(mask.astype(jnp.float32), (2, 4)).astype(jnp.uint8), pool.item,
              views.view_bin(pool.camera.azimuth, pool.camera.elevation))


def renders(key, autoencoder, scale, *, fresh):
  """`fresh` latents of one composition."""
  k_pool, k_back = jax.random.split(key)
  back = jax.vmap(lambda k: render_buffer.background(k, sd.SIZE))(jax.random.split(k_back, fresh))
  return latents(render_buffer.batch(k_pool, fresh, size=sd.SIZE), back, autoencoder, scale)


def drawn(key, pick):
  """A draw of the posterior of each of the picked latents."""
  mean, spread = (a.astype(jnp.float32) for a in (pick.mean, pick.spread))
  return mean + spread * jax.random.normal(key, mean.shape)


def captions(key, item, view):
  """(token ids, the classes of what the caption names) of items; view -1 is not told. A share
  meaning.CAPTION_DROPPED of them is empty, and its classes are -1."""
  k_words, k_blank = jax.random.split(key)
  n = len(view)
  blank = jax.random.uniform(k_blank, (n,)) < meaning.CAPTION_DROPPED
  ids = jax.vmap(sd_text.tokens)(jax.random.split(k_words, n), item, view)
  return jnp.where(blank[:, None], sd_text.blank(), ids), {
    name: jnp.where(blank, -1, label) for name, label in geometry.labels(item, False).items()}


def examples(key, ring, n):
  """`n` latents of the ring, token ids, the object's share of each place, and the classes of what
  the caption names, -1 where there is none; no camera."""
  k_slot, k_draw, k_words, k_seen = jax.random.split(key, 4)
  pick = render_buffer.some(k_slot, ring, n)
  view = jnp.where(jax.random.uniform(k_seen, (n,)) < meaning.VIEW_WORDS, pick.view, -1)
  ids, classes = captions(k_words, pick.item, view)
  return drawn(k_draw, pick), ids, pick.mask / 255., classes, None


def loss(params, key, z, ids, mask, classes, where, *, prediction, emphasis=1.,
         dtype=jnp.float32):
  """Mean squared error of v, whose weights are as in train_prior, and meaning.WEIGHT of
  `misread`; times are stratified over the batch. `where` as sd.predict's: views of a scene share
  their time."""
  k_t, k_eps = jax.random.split(key)
  turns = 1 if where is None else sd.TURNS
  n = len(z) // turns
  t = jnp.repeat((jnp.arange(n) + jax.random.uniform(k_t, (n,))) / n, turns)
  eps = jax.random.normal(k_eps, z.shape)
  words, pooled = sd.embed(params, ids)
  z_t, alpha, sigma = diffuse(z, t, eps, schedule=SCHEDULE), SCHEDULE.alpha(t), SCHEDULE.sigma(t)
  out = sd.predict(params, z_t, t, words, where, dtype=dtype)
  eps_hat = PREDICTIONS[prediction].eps(out, z_t, bcast(alpha, z), bcast(sigma, z))
  weight = 1. + OBJECT_WEIGHT * emphasis * mask[..., None]
  off = bcast(PREDICTIONS['v_prediction'].error(alpha, sigma), z) * (eps_hat - eps)
  return (jnp.mean(weight * off ** 2) / jnp.mean(weight)
          + meaning.WEIGHT * meaning.misread(params['meaning'], pooled, classes))


def optimizer():
  """As train_prior's: Muon for the matrices through which words and times act."""
  def matrices(params):
    def of(path, x):
      name = jax.tree_util.keystr(path)
      acts = name.endswith("['kernel']") and x.ndim == 2 and any(part in name for part in (
          'time_emb_proj', 'attn2', 'text_model'))
      return contrib.MuonDimensionNumbers((0,), (1,)) if acts else None
    return jax.tree_util.tree_map_with_path(of, params)
  return trainer.muon(matrices)


def init(key):
  """The weights, and 'meaning', the heads that read the end of the text."""
  return sd.init(key) | {'meaning': meaning.heads(sd.TEXT['hidden_size'])}


def shipped(params):
  """Those of the weights that are shipped."""
  return {name: params[name] for name in ('unet', 'text_model')}
