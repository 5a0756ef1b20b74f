"""The control variates of SSD by name, and the weights that some of them look through."""
from typing import Any, Callable

from jaxdreamer import perception
from jaxdreamer.control_variates.constant import constant
from jaxdreamer.control_variates.depth import depth as depth_variate
from jaxdreamer.control_variates.neighbors import neighbors
from jaxdreamer.control_variates.normals import normals as normals_variate

PLAIN = {'constant': constant, 'neighbors': neighbors}
SEEING = {'depth': (depth_variate, perception.depth),
          'normals': (normals_variate, perception.normals)}


def control_variates(names: tuple[str | Callable, ...], *, depth: str, normals: str,
                     size: int) -> tuple[tuple[Callable, ...], Callable[[], dict[str, Any]]]:
  """(a function phi for each name, what loads the weights that they expect in prior.weights).
  `depth` and `normals` are paths of perception.py, whose estimators see `size` pixels; a function
  stands for itself. ValueError for a name that is not in the tables, and where there is none."""
  unknown = [name for name in names if not callable(name) and name not in PLAIN | SEEING]
  if unknown or not names:
    raise ValueError(f'config.estimator.ssd.phi={names!r}: takes some of '
                     f'{sorted(PLAIN | SEEING)}')
  phi, loads, paths = [], {}, {'depth': depth, 'normals': normals}
  for name in names:
    if callable(name):
      phi.append(name)
    elif name in PLAIN:
      phi.append(PLAIN[name]())
    else:
      variate, estimator = SEEING[name]
      loads[name], estimate = estimator(paths[name], size=size)
      phi.append(variate(estimate=estimate))
  return tuple(phi), lambda: {name: load() for name, load in loads.items()}
