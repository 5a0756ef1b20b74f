"""Optimizers: regex groups over parameter names -> one optax chain for scene and estimator
together."""
import re
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from jaxdreamer.layout import name
from jaxdreamer.packing import Label, Pack, packed, unpacked
from jaxdreamer.schedules import at
from jaxdreamer.types import TrainState

SCENES = 'scene/field/'          # of several particles, the parameters that each has for itself


def cut_over(x) -> tuple[str, ...]:
  """The mesh axes along which the devices of a step hold different values of x."""
  return tuple(sorted(jax.typeof(x).manual_axis_type.varying))


def across(x):
  """The sum of x over devices that hold parts of it; x itself where it is whole."""
  return jax.lax.psum(x, cut_over(x)) if cut_over(x) else x


def norm(tree: PyTree):
  """The norm of all arrays together, with the parts of them that other devices hold."""
  parts, whole = ([x for x in jax.tree.leaves(packed(tree)) if bool(cut_over(x)) == kind]
                  for kind in (True, False))
  squares = optax.tree.norm(whole, squared=True)
  if parts:
    squares += across(optax.tree.norm(parts, squared=True))
  return jnp.sqrt(squares)


def clip_by_norm(bound: float) -> optax.GradientTransformation:
  """optax.clip_by_global_norm by `norm`."""
  def update(grads, state, params=None):
    length = norm(grads)
    shorter = lambda g: jnp.where(length < bound, g, g / length.astype(g.dtype) * bound)
    return jax.tree.map(shorter, grads), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_adan(*, b1: float = .98, b2: float = .92, b3: float = .99,
                  eps: float = 1e-8) -> optax.GradientTransformation:
  """Adan (Xie et al. 2022) with the betas, the bias corrections and the place of eps of its
  authors' optimizer:

      d = g - g_before (0 at first)
      m <- b1 m + (1 - b1) g
      v <- b2 v + (1 - b2) d
      n <- b3 n + (1 - b3) (g + b2 d)^2
      update = (m / (1 - b1^k) + b2 v / (1 - b2^k)) / (sqrt(n / (1 - b3^k)) + eps)

  Our own because optax's, as of 0.2.8, weighs d and v by 1 - b2 in place of b2
  (google-deepmind/optax#1715): on noise its updates are 1.8 times as large. When that is mended,
  take optax's.
  """
  zeros = lambda params: jax.tree.map(jnp.zeros_like, params)

  def init(params):
    return optax.ScaleByAdanState(zeros(params), zeros(params), zeros(params), zeros(params),
                                  jnp.zeros([], jnp.int32))

  def update(grads, state, params=None):
    t = optax.safe_increment(state.t)
    mean = lambda b, old, new: optax.tree.update_moment(new, old, b, 1)
    unbiased = lambda b, x: x / (1. - b ** t.astype(jnp.float32))
    d = jax.tree.map(lambda g, before: jnp.where(state.t == 0, jnp.zeros_like(g), g - before),
                     grads, state.g)
    m, v = mean(b1, state.m, grads), mean(b2, state.v, d)
    n = mean(b3, state.n, jax.tree.map(lambda g, d: (g + b2 * d) ** 2, grads, d))
    updates = jax.tree.map(lambda m, v, n: (unbiased(b1, m) + b2 * unbiased(b2, v))
                           / (jnp.sqrt(unbiased(b3, n)) + eps), m, v, n)
    return updates, optax.ScaleByAdanState(m, v, n, grads, t)

  return optax.GradientTransformation(init, update)


def each_alone(tx: optax.GradientTransformation) -> optax.GradientTransformation:
  """`tx` for parameters that are stacked [n, ...], n times side by side: those numbers i of all
  leaves whose gradients are zero stay where they are, and so does what `tx` keeps of them. So of
  several particles the one whose turn it is moves alone."""
  def init(params):
    return jax.vmap(tx.init)(params) if jax.tree.leaves(params) else tx.init(params)

  def update(grads, state, params=None):
    if not jax.tree.leaves(grads):  # a group that has none of the parameters
      return tx.update(grads, state, params)
    moved = across(sum(jnp.any(g != 0., axis=tuple(range(1, g.ndim)))
                       for g in jax.tree.leaves(grads))) > 0
    pick = lambda new, old: jnp.where(moved.reshape(moved.shape + (1,) * (new.ndim - 1)), new, old)
    updates, after = jax.vmap(tx.update)(grads, state, params)
    return jax.tree.map(lambda u: pick(u, jnp.zeros_like(u)),
                        updates), jax.tree.map(pick, after, state)

  return optax.GradientTransformation(init, update)


def together(tx: optax.GradientTransformation, *,
             label: Label) -> optax.GradientTransformation:
  """`tx`, which does the same to every number of a `label`, on packing.packed parameters."""
  def update(grads, state, params=None):
    updates, state = tx.update(packed(grads, label=label), state,
                               None if params is None else packed(params, label=label))
    return unpacked(updates, grads, label=label), state

  return optax.GradientTransformation(lambda params: tx.init(packed(params, label=label)), update)


def chain(groups, *, b1: float = .9, b2: float = .99, eps: float = 1e-15, weight_decay: float = 0.,
          clip: float = 0., accumulate: int = 1,
          particles: int = 1) -> optax.GradientTransformation:
  """AdamW whose learning rate is that of the first group (regex, schedule) that matches a
  parameter's whole name; a group (regex, schedule, 'sgd') descends plainly, as what keeps running
  means wants, and (regex, schedule, 'adan') by Adan (Xie et al. 2022, its own betas), as large
  generators want.

  The parameters of the scene's field are of several `particles`, stacked, whose optimizers know
  nothing of each other. ValueError where a parameter matches no group.

  Args:
    b1, b2, eps, weight_decay: AdamW's.
    clip: bound of the global gradient norm; 0 is none.
    accumulate: steps whose mean gradient makes one update.
  """
  def label(of):
    for i, (pattern, *_) in enumerate(groups):
      if re.fullmatch(pattern, of):
        return str(i) + (' each' if particles > 1 and of.startswith(SCENES) else '')
    raise ValueError(f'config.optim.groups: no pattern matches parameter {of!r}; got '
                     f'{[g[0] for g in groups]}')

  def labels(tree):
    if isinstance(tree, Pack):
      return Pack(labels(tree.whole), {of: of for of in tree.small})
    return jax.tree_util.tree_map_with_path(lambda path, _: label(name(path)), tree)

  def transform(rate, kind='adam', *, apart=False):
    kinds = {'adam': lambda: optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
             'adan': lambda: scale_by_adan(eps=eps), 'sgd': optax.identity}
    if kind not in kinds:
      raise ValueError(f'config.optim.groups: a group takes one of {sorted(kinds)}, got {kind!r}')
    decay = optax.identity() if kind == 'sgd' else optax.add_decayed_weights(weight_decay)
    own = kinds[kind](), decay
    return optax.chain(*((each_alone(optax.chain(*own)),) if apart else own),
                       optax.scale_by_learning_rate(partial(at, rate)))

  transforms = {str(i): transform(*rest) for i, (_, *rest) in enumerate(groups)}
  if particles > 1:
    transforms |= {f'{i} each': transform(*rest, apart=True) for i, (_, *rest) in enumerate(groups)}
  tx = optax.chain(clip_by_norm(clip) if clip else optax.identity(),
                   optax.multi_transform(transforms, labels))
  # an optimizer of several particles tells them apart by an array's first axis
  apart = lambda of: None if label(of).endswith('each') else label(of)
  return together(optax.MultiSteps(tx, accumulate).gradient_transformation() if accumulate > 1
                  else tx, label=apart)


def adam_v(state: TrainState, b2: float) -> PyTree | None:
  """Adam's v of the scene in a run's state, free of its start at 0; None where its optimizer has
  not kept one yet for all of it, or keeps some of it in packing's vectors."""
  leaves = {f'/{name(path)}': leaf
            for path, leaf in jax.tree_util.tree_flatten_with_path(state.opt)[0]}
  found = {}
  for path, leaf in leaves.items():
    head, _, of = path.partition('/nu/')
    # one a particle, where there are several
    settled = 1. - b2 ** jnp.asarray(leaves.get(f'{head}/count', 0), jnp.float32)
    if of and settled.min() > 0.:
      settled = settled.reshape(settled.shape + (1,) * (leaf.ndim - settled.ndim))
      found[of.removeprefix('whole/')] = leaf / settled
  scene = jax.tree_util.tree_map_with_path(lambda path, _: found.get(f'scene/{name(path)}'),
                                           state.params['scene'])
  known = len(jax.tree.leaves(scene)) == len(jax.tree.leaves(state.params['scene']))
  return scene if known else None
