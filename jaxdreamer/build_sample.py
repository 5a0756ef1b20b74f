"""config.sampling and config.cameras -> what draws the views of a step, and its times and noise."""
import math
from functools import partial

from jaxdreamer import cameras, sampling
from jaxdreamer.types import Estimator, Prior, Sample


def camera_ranges(section) -> dict:
  """Degrees in config, radians in code."""
  angles = {k: tuple(math.radians(a) for a in section[k]) for k in ('azimuth', 'elevation', 'fov')}
  return angles | {'distance': tuple(section.distance), 'relative': section.relative,
                   'angular': section.angular}


def make_sample(config, prior: Prior, estimator: Estimator) -> Sample:
  """sampling.make_sample's, of config.sampling and config.cameras."""
  s = config.sampling
  return sampling.make_sample(**view_options(config), draw=sampling.make_draw(
    noise=prior.schedule, t_min=s.t_min, t_max=s.t_max, weight=estimator.weight or s.weight,
    shape=prior.latent, density=s.density, antithetic=s.antithetic))


def view_options(config) -> dict:
  """What sampling.make_views takes, likewise."""
  s, c = config.sampling, config.cameras
  return {'design': sampling.DESIGNS[s.design], 'views': s.views,
          'dims': s.draws // (2 if s.antithetic else 1),
          'camera_from': partial(cameras.from_uniform, **camera_ranges(c)),
          'move': cameras.make_move(by=c.jitter, front_back=c.front_back)}
