"""Optimisers: regex groups over parameter names -> one optax chain for scene and estimator together."""
import re

import jax
import optax


def schedule(value):
  """A number or (v,), or (v0, v1, steps) = linear from v0 to v1 over `steps` and constant after, or (v0, v1, start, steps)
  with a start: one vocabulary for everything that anneals."""
  value = (value,) if isinstance(value, (int, float)) else tuple(value)
  if len(value) not in (1, 3, 4):
    raise ValueError(f'a schedule is a number, (v,), (v0, v1, steps) or (v0, v1, start, steps); got {value}')
  if len(value) == 1:
    return optax.constant_schedule(float(value[0]))
  v0, v1, *start, steps = value
  return optax.linear_schedule(float(v0), float(v1), int(steps), int(start[0]) if start else 0)


def name(path) -> str:
  """('scene', 'grid_37') -> 'scene/grid_37'."""
  return '/'.join(str(getattr(p, 'key', getattr(p, 'idx', p))) for p in path)


def chain(groups, *, b1: float = .9, b2: float = .99, eps: float = 1e-15, weight_decay: float = 0.,
          clip: float = 0., accumulate: int = 1) -> optax.GradientTransformation:
  """AdamW whose learning rate is that of the first group (regex, schedule) that matches a parameter's whole name; a group
  (regex, schedule, 'sgd') descends plainly, as what keeps running means wants, and (regex, schedule, 'adan') by Adan (Xie et al.
  2022, its own betas), as large generators want.

  `clip` bounds the global gradient norm (0: off). `accumulate` steps share one update, by their mean gradient. ValueError where a
  parameter matches no group.
  """
  def label(params):
    def of(path, _):
      for i, (pattern, *_) in enumerate(groups):
        if re.fullmatch(pattern, name(path)):
          return str(i)
      raise ValueError(f'config.optim.groups: no pattern matches parameter {name(path)!r}; got {[g[0] for g in groups]}')
    return jax.tree_util.tree_map_with_path(of, params)

  def transform(rate, kind='adam'):
    kinds = {'adam': lambda: optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
             'adan': lambda: optax.scale_by_adan(eps=eps, eps_root=0.), 'sgd': optax.identity}
    if kind not in kinds:
      raise ValueError(f'config.optim.groups: a group takes one of {sorted(kinds)}, got {kind!r}')
    decay = optax.identity() if kind == 'sgd' else optax.add_decayed_weights(weight_decay)
    return optax.chain(kinds[kind](), decay, optax.scale_by_learning_rate(schedule(rate)))

  tx = optax.chain(optax.clip_by_global_norm(clip) if clip else optax.identity(),
                   optax.multi_transform({str(i): transform(*rest) for i, (_, *rest) in enumerate(groups)}, label))
  return optax.MultiSteps(tx, accumulate).gradient_transformation() if accumulate > 1 else tx
