"""Changes of a config with which a step fits that memory cannot hold: each is compiled, from
shapes, before it is offered."""
import copy
import math
import time

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxdreamer import build, metrics, options, profiling, seeds
from jaxdreamer.training import compiled, lowered
from jaxdreamer.types import Prior

OFFERED = 3                            # as many ways as are told
SECONDS = 300.                         # after these no other is compiled


def ladder(config: ConfigDict, mesh: Mesh) -> list[dict]:
  """Changes that make a step take less memory, {option: value}, the cheapest first: rays in chunks
  are only slower; fewer views, with the same mean over more steps, are more steps; fewer samples
  see less."""
  r, s, o = config.render, config.sampling, config.optim
  rays = {} if r.chunk and r.remat else {'render.chunk': 1024, 'render.remat': True}
  # views that each device, ring and prompt has as many of
  unit = math.lcm(mesh.devices.size * options.ring(s),
                  config.corpus.prompts if config.corpus.path else 1)
  fewer = lambda parts: {} if s.views % (parts * unit) or parts < 2 else {
    'sampling.views': s.views // parts, 'optim.accumulate': o.accumulate * parts}
  half, least = fewer(2), fewer(s.views // unit)
  coarse = {f'render.{name}': r[name] // 2 for name in ('samples', 'fine') if r[name] > 8}
  ways = [rays, half, coarse, rays | half, least, rays | least, rays | least | coarse]
  return [way for i, way in enumerate(ways) if way and way not in ways[:i]]


def needed(config: ConfigDict, mesh: Mesh, prior: Prior) -> int:
  """Bytes a device that the largest of the config's steps takes, its arguments too."""
  training = build.training(config, mesh, abstract=True, prior=prior)
  programs, _ = lowered(seeds.key(config.seed), training, mesh)
  return max(profiling.bytes_of(program) for _, program in compiled(programs))


def fitting(config: ConfigDict, mesh: Mesh, prior: Prior, room: int) -> list[tuple[dict, int]]:
  """The first OFFERED of `ladder` that take at most `room` bytes a device, each with what it takes.
  One that only adds to another that fits is left out."""
  found, begin = [], time.monotonic()
  for way in ladder(config, mesh):
    if len(found) == OFFERED or time.monotonic() - begin > SECONDS:
      break
    if any(other.items() <= way.items() for other, _ in found):
      continue
    changed = copy.deepcopy(config)      # references stay, such as of schedules to steps
    changed.update_from_flattened_dict(way)
    if (takes := needed(changed, mesh, prior)) <= room:
      found.append((way, takes))
  return found


def ways(config: ConfigDict, mesh: Mesh, prior: Prior, *, there: int = 0) -> str:
  """What makes the config's step fit into the memory that is free now, where `there` bytes a device
  of its arguments are in it already."""
  free = profiling.free_each(mesh.local_devices)
  found = fitting(config, mesh, prior, free + there)
  if not found:
    return (f'no chunks of rays, fewer views or samples fit either; take a smaller '
            f'config.scene.{config.scene.name}, or more devices')
  return 'these fit, the cheapest first: ' + '; '.join(
    ' '.join(f'--config.{name}={value}' for name, value in way.items())
    + f' ({(takes - there) / metrics.GIB:.2f} GiB)' for way, takes in found)
