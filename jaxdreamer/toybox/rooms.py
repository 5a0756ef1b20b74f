"""Rooms: two or three toys on the floor of a room that one stands in, exact by construction, and
their captions.

A further kind of caption, "a red car and a blue ball in a yellow room", whose words the shipped
networks do not know. The walls, x and y = -+HALF, are papered in two shades of the room's color
over a white skirting board; the floor is laid with two woods, the ceiling is white, and in the wall
at -x there is a window, painted on it. Toys are SIZE times as large as alone, face +x, and stand at
equal angles around the origin, the first on the left as seen from +x.

Points are p = (x, y, z), three arrays of one shape, as in world.py; pictures are views.View, whose
mask is 1.
"""
import functools
import itertools
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.stats import qmc

from jaxdreamer import cameras
from jaxdreamer.toybox import language, views, world
from jaxdreamer.toybox.primitives import least, move, norm, wrap
from jaxdreamer.types import Camera

HALF, FLOOR, CEILING = 2.5, -1.6, 1.9
RADIUS = 4.02                    # of the ball around the origin that holds all of it
SIZE, RING = .7, 1.4             # of the toys, and how far from the middle they stand
# ranges of the cameras, which look at the origin, in degrees
CAMERAS = {'azimuth': (-180., 180.), 'elevation': (-10., 45.), 'distance': (.1, 2.3),
           'fov': (60., 60.)}
# as views.LIGHT, with more from everywhere
LIGHT = views.Light(views.LIGHT.direction, np.float32(.8))
STEPS = 40                       # of sphere tracing, of the toys alone
HIT = 2e-3
PLANK, STRIPE = .625, .5         # sides of the floor's squares, widths of the paper's stripes
WINDOW, FRAME = ((-.8, .8), (-.1, 1.2)), .1                    # ranges of y and z; its width
SKY, LIGHT_WOOD, DARK_WOOD, WHITE = ((.60, .80, .98), (.66, .45, .26), (.46, .28, .13),
                                     (.95, .95, .95))
FORMS = "understood: 'a red car and a blue ball in a yellow room', with two or three toys"


class Room(NamedTuple):
  """`wall` is an index into world.COLORS; `places` are where the toys' own origins stand."""
  wall: int
  toys: tuple[world.Item, ...]
  places: tuple[tuple[float, float, float], ...]


def parse(text: str) -> Room:
  """The room a caption names. ValueError says in one line what is not understood."""
  found = text.lower().replace(',', ' and ').split()
  if found[-1:] != ['room'] or 'in' not in found:
    raise ValueError(f'{text!r} names no room; {FORMS}')
  at = len(found) - 1 - found[::-1].index('in')
  *_, color = found[at + 1:-1] or ['']
  meaning = language.MEANING.get(color, ('', 0))
  if meaning[0] != 'color' or len(found[at + 1:-1]) > 2:
    raise ValueError(f'no color for the room in {text!r}; name one of {", ".join(world.COLORS)}')
  groups = itertools.groupby(found[:at], lambda word: word == 'and')
  items = tuple(language.parse(' '.join(words)) for is_and, words in groups if not is_and)
  if len(items) not in (2, 3) or any(int(item.relation) != world.ALONE for item in items):
    raise ValueError(f'{text!r} holds {len(items)} things; {FORMS}')
  return Room(meaning[1], items, tuple(_place(k, len(items), int(item.kind[0]))
                                       for k, item in enumerate(items)))


def is_room(text: str) -> bool:
  """Whether a prompt speaks of a room, known or not."""
  return text.lower().split()[-1:] == ['room']


def names_a_room(text: str) -> bool:
  """Whether the toybox knows the room that a prompt means."""
  try:
    parse(text)
  except ValueError:
    return False
  return True


def caption(room: Room) -> str:
  """The canonical caption."""
  *first, last = map(world.caption, room.toys)
  wall = tuple(world.COLORS)[room.wall]
  article = 'an' if wall[0] in 'aeiou' else 'a'
  return f'{", ".join(first)} and {last} in {article} {wall} room'


@functools.cache
def foot(kind: int) -> float:
  """How far below its origin a lone toy reaches: that of a lattice of rays from below."""
  at = np.linspace(-world.RADIUS, world.RADIUS, 91, dtype=np.float32)
  x, y = np.meshgrid(at, at)
  item = world.Item(np.array([kind, 0]), world.ALONE, None, None)

  @jax.jit
  def rise(x, y):
    def step(_, z):
      return jnp.minimum(z + world.distance(item, (x, y, z)), world.RADIUS)
    z = jax.lax.fori_loop(0, 60, step, jnp.full_like(x, -world.RADIUS))
    return jnp.min(jnp.where(world.distance(item, (x, y, z)) < HIT, z, world.RADIUS))
  return float(rise(x, y))


def _place(k, count, kind):
  angle = 2. * math.pi * (k + .5) / count - math.pi
  return RING * math.cos(angle), RING * math.sin(angle), FLOOR - SIZE * foot(kind)


def _own(room, p):
  """p in the coordinates of each toy."""
  return [tuple(u / SIZE for u in move(p, *place)) for place in room.places]


def _planes(p):
  """Distances to the walls along x and y, to the floor and to the ceiling."""
  x, y, z = p
  return HALF - jnp.abs(x), HALF - jnp.abs(y), z - FLOOR, CEILING - z


def toys_distance(room: Room, p: world.Point) -> Float[Array, '*n']:
  """Signed distance to the toys, never more than the true one."""
  return least(*(SIZE * world.distance(item, q) for item, q in zip(room.toys, _own(room, p))))


def distance(room: Room, p: world.Point) -> Float[Array, '*n']:
  """Signed distance at p, negative in what is solid; never more than the true one."""
  return least(toys_distance(room, p), *_planes(p))


def wall_distance(origin: world.Point, direction: world.Point) -> Float[Array, '*n']:
  """How far a ray from inside goes to the walls, floor or ceiling, in closed form."""
  ends = ((-HALF, HALF), (-HALF, HALF), (FLOOR, CEILING))
  ahead = (jnp.where(d > 0., high, low) for d, (low, high) in zip(direction, ends))
  return least(*(jnp.where(jnp.abs(d) > 1e-9, (end - o) / jnp.where(jnp.abs(d) > 1e-9, d, 1.),
                           jnp.inf) for o, d, end in zip(origin, direction, ahead)))


def _paint(room, p):
  """Albedo of the walls, floor and ceiling at p, and where it is the sky in the window."""
  x, y, z = p
  planes = _planes(p)
  nearest = least(*planes)
  on = [d <= nearest for d in planes]
  along = jnp.where(on[0], y, x)
  stripe = wrap(along / (2. * STRIPE), 1.) < .5
  plank = wrap(jnp.floor(x / PLANK) + jnp.floor(y / PLANK), 2.) > .5
  (y0, y1), (z0, z1) = WINDOW
  inside = least(y - y0, y1 - y, z - z0, z1 - z)                 # from the frame's outer edge
  bars = least(jnp.abs(y - .5 * (y0 + y1)), jnp.abs(z - .5 * (z0 + z1))) < .4 * FRAME
  window = on[0] & (x < 0.) & (inside > 0.)
  glass = window & (inside > FRAME) & ~bars
  white = on[3] | (z < FLOOR + .15) | window
  rgb = []
  for wall, light, dark, sky in zip(tuple(world.COLORS.values())[room.wall], LIGHT_WOOD, DARK_WOOD,
                                    SKY):
    paper = jnp.where(stripe, wall, .72 * wall)
    upright = jnp.where(white, WHITE[0], paper)
    rgb.append(jnp.where(glass, sky, jnp.where(on[2], jnp.where(plank, light, dark), upright)))
  return rgb, glass


def surface(room: Room, p: world.Point) -> world.Point:
  """Albedo (r, g, b) in [0, 1] of the surface nearest to p."""
  return tuple(_surface(room, p)[0])


def _surface(room, p):
  rgb, glass = _paint(room, p)
  near = least(*_planes(p))
  for item, q in zip(room.toys, _own(room, p)):
    away = SIZE * world.distance(item, q)
    mine = away < near
    rgb = [jnp.where(mine, own, other) for own, other in zip(world.surface(item, q), rgb)]
    near, glass = jnp.minimum(away, near), glass & ~mine
  return rgb, glass


def trace(room: Room, origin: world.Point, direction: world.Point) -> Float[Array, '*n']:
  """Distance along each ray, from inside, to the first surface: the toys by sphere tracing, all
  else in closed form."""
  far = wall_distance(origin, direction)

  def step(_, state):
    t, hit = state
    free = toys_distance(room, views.along(origin, direction, t))
    return jnp.minimum(t + jnp.where(hit, 0., free), far), hit | (free < HIT)

  t, hit = jax.lax.fori_loop(0, STEPS, step, (jnp.zeros_like(far), far < 0.))
  return jnp.where(hit, t, far)


def shade(room: Room, p: world.Point) -> tuple[world.Point, world.Point]:
  """Color and normal at points of the surface, in LIGHT; the sky shines by itself."""
  sdf = partial(distance, room)
  n = world.slope(sdf, p)
  n = tuple(c / jnp.maximum(norm(*n), 1e-6) for c in n)
  toward = sum(a * b for a, b in zip(n, LIGHT.direction))
  rgb, glass = _surface(room, p)
  share = jnp.where(glass, 1., views.lit(sdf, p, n, toward, jnp.asarray(LIGHT.ambient)))
  return tuple(c * share for c in rgb), n


def sample_camera(key: Key[Array, '']) -> Camera:
  """One random camera of CAMERAS."""
  return camera_from(jax.random.uniform(key, (4,)))


def camera_from(u: Float[Array, '4']) -> Camera:
  """The camera at u in [0, 1]^4 of CAMERAS."""
  angles = {name: tuple(map(math.radians, CAMERAS[name]))
            for name in ('azimuth', 'elevation', 'fov')}
  return cameras.from_uniform(u, distance=CAMERAS['distance'], **angles)


def render(room: Room, camera: Camera, *, size: int, supersample: int = 1) -> views.View:
  """One picture from inside, in LIGHT."""
  rays = cameras.rays(camera, size * supersample)
  origin, direction = (tuple(jnp.moveaxis(v, -1, 0)) for v in rays)
  t = trace(room, origin, direction)
  rgb, normal = shade(room, views.along(origin, direction, t))
  pool = lambda v: v.reshape(size, supersample, size, supersample).mean((1, 3))
  stack = lambda rows: jnp.stack([pool(row) for row in rows], -1)
  normal = stack(normal)
  length = jnp.sqrt(jnp.maximum(jnp.sum(normal ** 2, -1, keepdims=True), 1e-12))
  return views.View(stack(rgb), jnp.ones((size, size)), pool(t), normal / length)


def unseen(count: int) -> Camera:
  """`count` cameras of CAMERAS, spread evenly (Halton 1960) and always the same."""
  u = qmc.Halton(4, scramble=False).random(count + 1)[1:].astype(np.float32)
  return jax.device_get(jax.jit(jax.vmap(camera_from))(u))


def pictures(text: str, camera: Camera, *, size: int, supersample: int = 2) -> views.View:
  """What the cameras [V] see of the room a caption names, in NumPy."""
  draw = partial(render, parse(text), size=size, supersample=supersample)
  return jax.device_get(jax.jit(partial(jax.lax.map, draw))(camera))
