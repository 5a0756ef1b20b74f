"""Numbers that change along a run, as data: one vocabulary for everything that anneals."""
import optax


def schedule(value):
  """A number or (v,), or (v0, v1, steps) = linear from v0 to v1 over `steps` and constant after, or
  (v0, v1, start, steps) with a start."""
  value = (value,) if isinstance(value, (int, float)) else tuple(value)
  if len(value) not in (1, 3, 4):
    raise ValueError(f'a schedule is a number, (v,), (v0, v1, steps) or (v0, v1, start, steps); '
                     f'got {value}')
  if len(value) == 1:
    return optax.constant_schedule(float(value[0]))
  v0, v1, *start, steps = value
  return optax.linear_schedule(float(v0), float(v1), int(steps), int(start[0]) if start else 0)
