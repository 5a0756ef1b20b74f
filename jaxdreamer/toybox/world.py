"""The embedded world: toys as signed distance functions, and the language that names them.

Every toy lies in the ball of radius `RADIUS` about the origin, z up, its front facing +x. A point set is `p = (x, y, z)`,
three arrays of one shape. A toy maps p to `(distance, slot)`: the distance never exceeds the true one and is 1-Lipschitz,
so sphere tracing cannot step through it (exact for the sphere and the cube); the slot says which colour the nearest
surface wears: `MAIN`, the item's own, or a fixed one such as wheels, glass and wood.

An `Item` is one toy, or one solid on or beside another, as small integer arrays: it samples and vmaps inside jit. Kind
and relation together are its *composition*; render one composition a batch and the `lax.switch` over toys is a true branch.
A caption is `LENGTH` token ids: bos, words, eos, then padding; eos has the highest id.
"""
import difflib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

RADIUS = .9
Point = tuple[Float[Array, '*n'], Float[Array, '*n'], Float[Array, '*n']]

# ----------------------------------------------------------------------------------------------------------- colours

COLOURS = {
  'red': (.86, .07, .07), 'green': (.10, .58, .14), 'blue': (.08, .20, .86), 'yellow': (.97, .84, .08),
  'orange': (.98, .48, .04), 'purple': (.47, .10, .68), 'pink': (.98, .48, .68), 'white': (.95, .95, .95),
  'black': (.07, .07, .08), 'brown': (.42, .23, .09), 'cyan': (.08, .80, .86), 'grey': (.50, .50, .52),
}
PATTERNS = ('plain', 'striped', 'checkered', 'spotted')
RELATIONS = ('alone', 'on', 'beside')
ALONE, ON, BESIDE = range(3)

MAIN, SHADE, DARK, GLASS, WOOD, SNOW, CARROT, LIGHT, STEEL, TAIL, ROOF, CREAM = range(12)
FIXED = ((0., 0., 0.), (0., 0., 0.), (.10, .10, .11), (.50, .76, .93), (.46, .28, .13), (.96, .96, .97),
         (1., .48, .06), (1., .90, .38), (.66, .68, .72), (.80, .06, .06), (.50, .20, .14), (.93, .87, .74))
DARK_PARTNERS = ('white', 'yellow')              # a pattern alternates with black on these, with white on all others

# -------------------------------------------------------------------------------------------------------- primitives


def norm(*v):
  return jnp.sqrt(sum(u * u for u in v))


def move(p, *c):
  """p seen from the centre c."""
  return tuple(u - o for u, o in zip(p, c))


def lean(p, angle):
  """p turned about y: the toy's z axis leans towards +x by `angle`."""
  (x, y, z), c, s = p, np.cos(angle), np.sin(angle)
  return c * x - s * z, y, s * x + c * z


def along_x(p):
  """p with the toy's z axis laid along +x."""
  x, y, z = p
  return -z, y, x


def along_y(p):
  """p with the toy's z axis laid along +y."""
  x, y, z = p
  return x, -z, y


def corner(*q):
  """Distance to the corner where all q are negative: exact for boxes and for drums."""
  return norm(*(jnp.maximum(u, 0.) for u in q)) + jnp.minimum(most(*q), 0.)


def most(*d):
  out = d[0]
  for u in d[1:]:
    out = jnp.maximum(out, u)
  return out


def least(*d):
  out = d[0]
  for u in d[1:]:
    out = jnp.minimum(out, u)
  return out


def ball(p, c, r):
  return norm(*move(p, *c)) - r


def box(p, c, half, soft=0.):
  return corner(*(jnp.abs(u) - (h - soft) for u, h in zip(move(p, *c), half))) - soft


def drum(p, r, h, soft=0.):
  """Upright cylinder of radius r and half height h."""
  x, y, z = p
  return corner(norm(x, y) - (r - soft), jnp.abs(z) - (h - soft)) - soft


def ring(p, major, minor):
  """Torus about z."""
  x, y, z = p
  return norm(norm(x, y) - major, z) - minor


def rod(p, a, b, r):
  """Capsule from a to b."""
  a, b = np.array(a), np.array(b)
  q, axis = move(p, *a), b - a
  s = jnp.clip(sum(u * v for u, v in zip(q, axis)) / np.dot(axis, axis), 0., 1.)
  return norm(*(u - s * v for u, v in zip(q, axis))) - r


def taper(r, z, r0, r1, z0, z1):
  """Radius r0 at z0 to r1 at z1 (a bound: half planes); r is any convex radius, such as |x, y| or max(|x|, |y|)."""
  slope = (r0 - r1) / (z1 - z0)
  side = (r - r0 + slope * (z - z0)) / np.hypot(1., slope)
  return most(side, z0 - z, z - z1)


def spike(p, r0, r1, z0, z1):
  """Cone or frustum about z."""
  x, y, z = p
  return taper(norm(x, y), z, r0, r1, z0, z1)


def pear(p, r0, r1, z0, z1):
  """The hull of two balls on the z axis, exact: the nearest point lies on one of them or on the cone that touches both."""
  x, y, z = p
  r, h = norm(x, y), z1 - z0
  s = (r0 - r1) / h
  c = np.sqrt(1 - s * s)
  t = c * (z - z0) - s * r                       # along the touching cone, from its lower circle
  cone = c * r + s * (z - z0) - r0
  return jnp.where(t < 0., norm(r, z - z0) - r0, jnp.where(t > c * h, norm(r, z - z1) - r1, cone))


def blob(p, c, radii):
  """Ellipsoid (a bound, from scaling by the least radius)."""
  return (norm(*(u / r for u, r in zip(move(p, *c), radii))) - 1.) * min(radii)


def wrap(u, period):
  """u modulo period; `jnp.mod` is many times slower on a CPU."""
  return u - period * jnp.floor(u / period)


def dress(*parts):
  """The union of (distance, slot) parts."""
  d, slot = parts[0][0], jnp.full(parts[0][0].shape, parts[0][1], jnp.int32)
  for e, s in parts[1:]:
    d, slot = jnp.minimum(d, e), jnp.where(e < d, s, slot)
  return d, slot


# ------------------------------------------------------------------------------------------------------------ solids

BALL, CUBE, CAN_R, CAN_H, TORUS_R, TORUS_r = .8, .51, .5, .7, .6, .26
CONE_R, CONE_LOW, CONE_TOP = .68, -.55, .85
PYRAMID_R, PYRAMID_LOW, PYRAMID_TOP = .53, -.48, .8
PILL_R, PILL_H = .38, .5
EGG = (.57, .39, -.22, .34)


def sphere(p):
  return dress((norm(*p) - BALL, MAIN))


def cube(p):
  return dress((box(p, (0., 0., 0.), (CUBE,) * 3), MAIN))


def cylinder(p):
  return dress((drum(p, CAN_R, CAN_H), MAIN))


def cone(p):
  return dress((spike(p, CONE_R, 0., CONE_LOW, CONE_TOP), MAIN))


def torus(p):
  return dress((ring(p, TORUS_R, TORUS_r), MAIN))


def pyramid(p):
  x, y, z = p
  return dress((taper(most(jnp.abs(x), jnp.abs(y)), z, PYRAMID_R, 0., PYRAMID_LOW, PYRAMID_TOP), MAIN))


def capsule(p):
  return dress((rod(p, (0., 0., -PILL_H), (0., 0., PILL_H), PILL_R), MAIN))


def egg(p):
  return dress((pear(p, *EGG), MAIN))


# ------------------------------------------------------------------------------------------------------------ things


def mug(p):
  """Handle towards +y."""
  body = move(p, 0., -.15, 0.)
  handle = ring(along_x(move(p, 0., .37, 0.)), .28, .085)
  hollow = drum(move(body, 0., 0., .12), .41, .6)
  return dress((most(least(drum(body, .5, .6, .03), handle), -hollow), MAIN))


def teapot(p):
  """Spout towards +x, handle behind."""
  body = blob(p, (0., 0., -.14), (.56, .56, .48))
  spout = rod(p, (.44, 0., -.22), (.76, 0., .2), .09)
  handle = ring(along_y(move(p, -.55, 0., -.08)), .24, .07)
  lid = drum(move(p, 0., 0., .33), .28, .05, .03)
  return dress((least(body, spout), MAIN), (handle, MAIN), (lid, SHADE), (ball(p, (0., 0., .48), .11), SHADE),
               (ball(p, (.79, 0., .25), .06), DARK))


def house(p):
  """Door, windows and gable in front; chimney at the back."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  roof_plane = .729 * jnp.abs(y) + .685 * (z - .70)
  walls = most(jnp.abs(x) - .46, jnp.abs(y) - .46, -.55 - z, roof_plane + .06)
  roof = most(jnp.abs(roof_plane + .05) - .05, jnp.abs(x) - .55, -.03 - z)
  return dress((walls, MAIN), (roof, ROOF), (box(p, (.46, 0., -.32), (.03, .13, .23)), DARK),
               (box(flip, (.46, .3, -.2), (.03, .1, .12)), GLASS), (box(p, (.46, 0., .2), (.03, .1, .1)), GLASS),
               (box(flip, (0., .46, -.2), (.16, .03, .12)), GLASS), (ball(p, (.5, .07, -.33), .035), LIGHT),
               (box(p, (-.3, .3, .5), (.09, .09, .2)), DARK))


def castle(p):
  """Four towers, a gate in front and a flag."""
  x, y, z = p
  four = jnp.abs(x) - .42, jnp.abs(y) - .42, z
  teeth = jnp.abs(wrap(x + .06, .24) - .12), jnp.abs(wrap(y + .06, .24) - .12)
  wall = box(p, (0., 0., -.18), (.42, .42, .27))
  gap = most(.06 - most(*teeth), -.02 - z)
  return dress((most(wall, -gap * .7), MAIN), (drum(move(four, 0., 0., -.1), .18, .35), MAIN),
               (spike(four, .25, 0., .25, .64), ROOF), (box(p, (.42, 0., -.28), (.03, .14, .16)), DARK),
               (drum(along_x(move(p, .42, 0., -.12)), .14, .03), DARK),
               (box(p, (0., 0., .15), (.17, .17, .3)), MAIN), (rod(p, (0., 0., .4), (0., 0., .84), .025), DARK),
               (box(p, (0., .13, .74), (.025, .13, .09)), TAIL))


def car(p):
  """Headlights and windscreen in front (+x), red lamps behind."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  wheel = along_y(move((jnp.abs(x), jnp.abs(y), z), .45, .35, -.24))
  cabin = taper(most(jnp.abs(x + .1) - .12, jnp.abs(y)), z, .36, .24, .04, .38)
  return dress((box(p, (0., 0., -.1), (.76, .36, .17), .07), MAIN), (cabin, GLASS),
               (box(p, (-.1, 0., .36), (.36, .25, .045), .04), MAIN),
               (box(flip, (-.1, .29, .2), (.035, .05, .16)), MAIN),
               (drum(wheel, .2, .08, .02), DARK), (drum(wheel, .09, .1), STEEL),
               (ball(flip, (.74, .23, -.06), .1), LIGHT), (box(flip, (-.76, .23, -.05), (.03, .1, .07)), TAIL),
               (box(p, (.77, 0., -.19), (.02, .3, .05)), STEEL))


def truck(p):
  """Cab in front, tall box behind."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  wheel = along_y(move((jnp.abs(x), jnp.abs(y), z), .47, .31, -.43))
  return dress((box(p, (-.24, 0., .06), (.5, .35, .4), .03), MAIN), (box(p, (.51, 0., -.12), (.21, .32, .25), .05), MAIN),
               (box(p, (0., 0., -.4), (.72, .28, .07)), DARK), (box(p, (.71, 0., .0), (.03, .26, .09)), GLASS),
               (box(flip, (.53, .32, .0), (.1, .02, .09)), GLASS), (drum(wheel, .17, .08, .02), DARK),
               (drum(wheel, .08, .1), STEEL), (ball(flip, (.71, .22, -.24), .075), LIGHT),
               (box(flip, (-.745, .22, -.24), (.02, .08, .06)), TAIL))


def snowman(p):
  """Nose, eyes and buttons in front; hat and scarf wear the main colour."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  snow = least(ball(p, (0., 0., -.5), .38), ball(p, (0., 0., .03), .29), ball(p, (0., 0., .42), .235))
  hat = least(drum(move(p, 0., 0., .585), .3, .03), drum(move(p, 0., 0., .72), .19, .16))
  dots = least(ball(p, (.29, 0., .1), .055), ball(p, (.29, 0., -.06), .055), ball(p, (.36, 0., -.38), .06))
  return dress((snow, SNOW), (hat, MAIN), (ring(move(p, 0., 0., .24), .21, .075), MAIN),
               (spike(along_x(move(p, .2, 0., .41)), .08, .0, 0., .36), CARROT),
               (ball(flip, (.19, .1, .48), .05), DARK), (dots, DARK),
               (rod(flip, (0., .24, .06), (0., .6, .24), .035), WOOD))


def chair(p):
  """The sitter looks towards +x."""
  x, y, z = p
  legs = box((jnp.abs(x), jnp.abs(y), z), (.3, .3, -.4), (.055, .055, .3))
  back = most(box(p, (-.31, 0., .3), (.05, .36, .42), .02), -box(p, (-.31, 0., .22), (.2, .2, .12)))
  return dress((legs, MAIN), (box(p, (0., 0., -.1), (.37, .37, .06), .02), MAIN), (back, MAIN))


def table(p):
  x, y, z = p
  legs = box((jnp.abs(x), jnp.abs(y), z), (.55, .35, -.08), (.065, .065, .36))
  return dress((legs, SHADE), (box(p, (0., 0., .33), (.67, .46, .065), .02), MAIN))


def bed(p):
  """Head at -x; the blanket wears the main colour."""
  x, y, z = p
  legs = box((jnp.abs(x), jnp.abs(y), z), (.66, .36, -.3), (.06, .05, .13))
  return dress((box(p, (0., 0., -.16), (.72, .4, .08)), WOOD), (box(p, (0., 0., -.02), (.69, .38, .09), .05), SNOW),
               (box(p, (.19, 0., .0), (.53, .415, .11), .05), MAIN), (legs, WOOD),
               (box(p, (-.70, 0., .07), (.05, .41, .31), .03), WOOD), (box(p, (.71, 0., -.1), (.045, .41, .16)), WOOD),
               (box(p, (-.46, 0., .11), (.15, .27, .07), .06), SNOW))


def lamp(p):
  bell = most(spike(p, .56, .28, .12, .72), -spike(p, .5, .22, .08, .76))
  return dress((bell, MAIN), (rod(p, (0., 0., -.75), (0., 0., .3), .05), STEEL), (ball(p, (0., 0., .38), .15), LIGHT),
               (drum(move(p, 0., 0., -.73), .36, .07, .03), DARK))


def mushroom(p):
  x, y, z = p
  cap = most(blob(p, (0., 0., .0), (.74, .74, .74)), .1 - z)
  return dress((cap, MAIN), (drum(move(p, 0., 0., .08), .66, .03), CREAM), (spike(p, .3, .19, -.8, .12), CREAM))


def tree(p):
  leaves = least(spike(p, .62, .16, -.42, .1), spike(p, .5, .12, -.02, .46), spike(p, .37, .0, .34, .88))
  return dress((leaves, MAIN), (drum(move(p, 0., 0., -.62), .14, .23), WOOD))


def cactus(p):
  """A potted cactus: the lower arm towards +y, the upper towards -y."""
  arms = least(rod(p, (0., .0, -.12), (0., .42, -.12), .11), rod(p, (0., .42, -.12), (0., .42, .26), .11),
               rod(p, (0., .0, .12), (0., -.4, .12), .1), rod(p, (0., -.4, .12), (0., -.4, .44), .1))
  pot = least(spike(p, .25, .34, -.84, -.46), drum(move(p, 0., 0., -.46), .38, .06))
  return dress((rod(p, (0., 0., -.4), (0., 0., .66), .2), MAIN), (arms, MAIN), (pot, ROOF))


def rocket(p):
  """Porthole in front."""
  x, y, z = p
  fin = jnp.maximum(jnp.abs(x), jnp.abs(y)), jnp.minimum(jnp.abs(x), jnp.abs(y)), z
  fins = most(box(fin, (.3, 0., -.48), (.28, .045, .28)), (fin[0] + .8 * z - .30) * .78)
  return dress((spike(p, .29, .27, -.5, .35), MAIN), (spike(p, .27, 0., .35, .88), SNOW), (fins, SNOW),
               (drum(along_x(move(p, .25, 0., .12)), .16, .07), STEEL), (drum(along_x(move(p, .27, 0., .12)), .11, .07), GLASS),
               (spike((x, y, -z), .2, 0., .5, .86), CARROT))


def airplane(p):
  """Nose and cockpit towards +x."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  wing = box(flip, (.05, .43, -.03), (.19, .42, .045), .04)
  engine = rod(flip, (.1, .42, -.12), (.24, .42, -.12), .085)
  return dress((rod(p, (-.66, 0., 0.), (.66, 0., 0.), .19), MAIN), (wing, STEEL), (engine, DARK),
               (box(flip, (-.7, .2, .04), (.1, .2, .035)), STEEL),
               (most(box(p, (-.68, 0., .25), (.16, .04, .25)), (x + .6 * z + .5) * .85), MAIN),
               (blob(p, (.6, 0., .13), (.15, .13, .1)), GLASS))


def boat(p):
  """Bow towards +x, one sail."""
  x, y, z = p
  hull = most(.8 * jnp.abs(y) + .5 * x - .42, (jnp.abs(y) - .42 - .4 * (z + .28)) * .92, -.68 - x + .2 * (z + .28),
              (x - .78 - .6 * (z + .28)) * .85, z + .28, -.62 - z)
  sail = most(jnp.abs(y) - .035, (x + .55 * z - .47) * .87, -.02 - x, -.1 - z)
  jib = most(jnp.abs(y) - .035, (-x + .8 * z - .62) * .78, x + .14, .0 - z)
  return dress((hull, MAIN), (most(hull + .07, z + .25), WOOD), (rod(p, (-.07, 0., -.3), (-.07, 0., .83), .035), WOOD),
               (sail, SNOW), (jib, SNOW))


def duck(p):
  """Beak towards +x."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  body = blob(p, (-.08, 0., -.28), (.6, .44, .4))
  tail = spike(lean(move(p, -.5, 0., -.2), -.75), .22, .0, -.05, .42)
  return dress((least(body, tail), MAIN), (ball(p, (.3, 0., .3), .31), MAIN), (pear(move(p, .22, 0., 0.), .26, .2, -.1, .2), MAIN),
               (blob(p, (.64, 0., .25), (.2, .17, .08)), CARROT), (ball(flip, (.5, .17, .42), .065), DARK),
               (blob(flip, (-.14, .38, -.22), (.3, .1, .2)), SHADE))


def robot(p):
  """Eyes, mouth and chest panel in front."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  return dress((box(p, (0., 0., -.14), (.25, .35, .31), .04), MAIN), (box(p, (0., 0., .43), (.23, .29, .21), .04), MAIN),
               (drum(move(p, 0., 0., .2), .11, .06), DARK), (ball(flip, (.22, .13, .48), .085), LIGHT),
               (box(p, (.23, 0., .3), (.025, .16, .035)), DARK), (box(p, (.25, 0., -.1), (.025, .2, .13)), GLASS),
               (rod(flip, (0., .44, .08), (.06, .52, -.34), .085), STEEL), (ball(flip, (.07, .52, -.4), .12), DARK),
               (box(flip, (0., .17, -.58), (.12, .11, .17)), STEEL), (box(flip, (.07, .17, -.78), (.22, .14, .06)), DARK),
               (rod(p, (0., 0., .6), (0., 0., .76), .03), STEEL), (ball(p, (0., 0., .79), .075), TAIL))


def bear(p):
  """A sitting teddy: muzzle, eyes and belly in front."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  return dress((ball(p, (0., 0., -.34), .42), MAIN), (ball(p, (0., 0., .3), .34), MAIN),
               (ball(flip, (0., .28, .58), .15), MAIN), (ball(flip, (.08, .28, .58), .1), CREAM),
               (ball(p, (.27, 0., .2), .17), CREAM), (ball(p, (.42, 0., .26), .075), DARK),
               (ball(flip, (.27, .15, .4), .06), DARK), (ball(p, (.14, 0., -.36), .32), CREAM),
               (rod(flip, (.08, .36, -.12), (.3, .5, -.22), .12), MAIN), (rod(flip, (.1, .26, -.62), (.4, .32, -.64), .15), MAIN),
               (ball(p, (-.42, 0., -.55), .12), MAIN))


def guitar(p):
  """Strings and sound hole in front."""
  x, y, z = p
  low, high = move(p, 0., 0., -.46), move(p, 0., 0., -.08)
  body = least(drum(along_x(low), .40, .12, .03), drum(along_x(high), .30, .12, .03))
  return dress((body, MAIN), (box(p, (.1, 0., .3), (.05, .065, .42)), WOOD), (box(p, (.09, 0., .76), (.05, .11, .11), .02), DARK),
               (drum(along_x(move(p, .1, 0., -.2)), .13, .04), DARK), (box(p, (.13, 0., -.56), (.04, .17, .04)), DARK))


SOLIDS = dict(sphere=sphere, cube=cube, cylinder=cylinder, cone=cone, torus=torus, pyramid=pyramid, capsule=capsule, egg=egg)
TOYS = dict(SOLIDS, mug=mug, teapot=teapot, house=house, castle=castle, car=car, truck=truck, snowman=snowman, chair=chair,
            table=table, bed=bed, lamp=lamp, mushroom=mushroom, tree=tree, cactus=cactus, rocket=rocket, airplane=airplane,
            boat=boat, duck=duck, robot=robot, bear=bear, guitar=guitar)
KINDS = tuple(TOYS)
FRONT = ('teapot', 'house', 'castle', 'car', 'truck', 'snowman', 'chair', 'bed', 'rocket', 'airplane', 'boat', 'duck', 'robot',
         'bear', 'guitar')                       # the kinds whose front and back differ at a glance
BASES = ('sphere', 'cube', 'cylinder', 'cone', 'torus')      # what another solid may stand on

# ------------------------------------------------------------------------------------------------------------- items


class Item(NamedTuple):
  """Indices into KINDS, RELATIONS, COLOURS and PATTERNS. Alone, the second entries are 0; `on` puts the first on the second."""
  kind: Int[Array, '2']
  relation: Int[Array, '']
  colour: Int[Array, '*b 2']
  pattern: Int[Array, '*b 2']


PAIR_SIZE = dict(sphere=.66, cube=1., cylinder=.8, cone=.85, torus=.85, pyramid=1.05, capsule=.82, egg=.72)


def _profile(kind, r):
  """Heights of the lower and upper surface of a solid at radius r, nan beyond it; the cube reaches to its corner."""
  with np.errstate(invalid='ignore'):
    if kind == 'egg':
      r0, r1, z0, z1 = EGG
      s = (r0 - r1) / (z1 - z0)
      c = np.sqrt(1 - s * s)
      cone = z0 + (r0 - c * r) / s
      top = np.where(r < c * r1, z1 + np.sqrt(r1 ** 2 - r * r), np.where(r < c * r0, cone, z0 + np.sqrt(r0 ** 2 - r * r)))
      return z0 - np.sqrt(r0 ** 2 - r * r), top
    if kind in ('cone', 'pyramid'):
      reach, low, top = {'cone': (CONE_R, CONE_LOW, CONE_TOP),
                         'pyramid': (PYRAMID_R * np.sqrt(2.), PYRAMID_LOW, PYRAMID_TOP)}[kind]
      return np.where(r <= reach, low, np.nan), np.where(r <= reach, top - (top - low) * r / reach, np.nan)
    top = {'sphere': np.sqrt(BALL ** 2 - r * r), 'cube': np.where(r <= CUBE * np.sqrt(2.), CUBE, np.nan),
           'cylinder': np.where(r <= CAN_R, CAN_H, np.nan), 'torus': np.sqrt(TORUS_r ** 2 - (r - TORUS_R) ** 2),
           'capsule': PILL_H + np.sqrt(PILL_R ** 2 - r * r)}[kind]
    return -top, top


def _places():
  """[relation, kind, kind, 2, (y, z, scale)]: the two solids touch, and together fill the ball of radius RADIUS."""
  r = np.linspace(0., 1., 2001)
  table = np.tile(np.array([0., 0., 1.]), (3, len(SOLIDS), len(SOLIDS), 2, 1))
  profiles = [[h * PAIR_SIZE[k] for h in _profile(k, r / PAIR_SIZE[k])] for k in SOLIDS]
  for i, a in enumerate(SOLIDS):
    for j, b in enumerate(SOLIDS):
      (low_a, top_a), (low_b, top_b) = profiles[i], profiles[j]
      rise = np.nanmax(top_b - low_a)                                      # a comes down on b until they touch
      floor_a, floor_b = -np.nanmin(low_a), -np.nanmin(low_b)
      reach_a, reach_b = (r[np.isfinite(t)].max() / (np.sqrt(2.) if k in ('cube', 'pyramid') else 1.)
                          for k, t in ((a, top_a), (b, top_b)))
      gap = (reach_a + reach_b + .14) / 2
      for relation, (ya, yb, za, zb) in {ON: (0., 0., rise, 0.), BESIDE: (-gap, gap, floor_a, floor_b)}.items():
        r_ab = np.concatenate([r + abs(ya)] * 2 + [r + abs(yb)] * 2)
        z_ab = np.concatenate([low_a + za, top_a + za, low_b + zb, top_b + zb])
        shifts = np.linspace(-1., 3., 801)
        reach = np.array([np.nanmax(np.hypot(r_ab, z_ab - s)) for s in shifts])
        s, scale = shifts[reach.argmin()], (RADIUS - .005) / reach.min()
        table[relation, i, j] = [(ya * scale, (za - s) * scale, scale * PAIR_SIZE[a]),
                                 (yb * scale, (zb - s) * scale, scale * PAIR_SIZE[b])]
  return table.astype(np.float32)


PLACES = _places()


def _each(item, p):
  """(local point, scale) of the item's two solids."""
  row = jnp.asarray(PLACES)[item.relation, jnp.minimum(item.kind[0], len(SOLIDS) - 1), jnp.minimum(item.kind[1], len(SOLIDS) - 1)]
  return [(tuple(u / s for u in move(p, 0., y, z)), s) for y, z, s in row]


def distance(item: Item, p: Point) -> Float[Array, '*n']:
  """Signed distance at p, negative inside."""
  def alone():
    return jax.lax.switch(item.kind[0], [lambda q, f=f: f(q)[0] for f in TOYS.values()], p)

  def pair():
    solids = [lambda q, f=f: f(q)[0] for f in SOLIDS.values()]
    return least(*(s * jax.lax.switch(k, solids, q) for k, (q, s) in zip(item.kind, _each(item, p))))
  return jax.lax.cond(item.relation == ALONE, alone, pair)


def surface(item: Item, p: Point) -> tuple[Float[Array, '*n'], Float[Array, '*n'], Float[Array, '*n']]:
  """Albedo (r, g, b) in [0, 1] of the surface nearest to p. Leading axes of colour and pattern are those of p."""
  zeros = jnp.zeros(p[0].shape, jnp.int32)

  def alone():
    return p, jax.lax.switch(item.kind[0], [lambda q, f=f: f(q)[1] for f in TOYS.values()], p), zeros

  def pair():
    (qa, sa), (qb, sb) = _each(item, p)
    solids = [lambda q, f=f: f(q)[0] for f in SOLIDS.values()]
    second = sb * jax.lax.switch(item.kind[1], solids, qb) < sa * jax.lax.switch(item.kind[0], solids, qa)
    return tuple(jnp.where(second, b, a) for a, b in zip(qa, qb)), zeros, second.astype(jnp.int32)

  local, slot, owner = jax.lax.cond(item.relation == ALONE, alone, pair)
  fit = lambda v: v.reshape(v.shape + (1,) * (owner.ndim - v.ndim))
  own = lambda v: jnp.where(owner == 1, fit(v[..., 1]), fit(v[..., 0]))
  palette, fixed = jnp.array(list(COLOURS.values())), jnp.array(FIXED)
  partner = jnp.array([.07 if c in DARK_PARTNERS else .95 for c in COLOURS])
  odd = _marked(own(item.pattern), local)
  out = []
  for i in range(3):
    main, other = palette[item.colour, i], partner[item.colour]
    main, mark = own(main), own(other)
    out.append(jnp.where(slot == MAIN, jnp.where(odd, mark, main), jnp.where(slot == SHADE, .5 * main, fixed[slot, i])))
  return tuple(out)


def _marked(pattern, p):
  """Where a pattern shows its second colour: solid textures, so that they agree from all sides."""
  x, y, z = p
  stripe = wrap((.45 * x + .45 * y + .77 * z) / .34, 1.) < .45
  check = wrap(sum(jnp.floor(u / .36 + .5) for u in p), 2.) > .5
  near = lambda shift: norm(*(wrap(u / .42 + shift, 1.) - .5 for u in p))
  spot = jnp.minimum(near(.5), near(0.)) < .30
  return ((pattern == 1) & stripe) | ((pattern == 2) & check) | ((pattern == 3) & spot)


def sample_composition(key: Key[Array, ''], *, pairs: float = .4) -> tuple[Int[Array, ''], Int[Array, ''], Int[Array, '']]:
  """Kind, relation and second kind: a pair with probability `pairs`, on and beside alike."""
  k_pair, k_kind, k_relation, k_solids, k_base = jax.random.split(key, 5)
  kind = jax.random.randint(k_kind, (), 0, len(KINDS))
  first, other = jax.random.randint(k_solids, (2,), 0, len(SOLIDS))
  base = jax.random.choice(k_base, jnp.array([KINDS.index(b) for b in BASES]))
  relation = jax.random.randint(k_relation, (), ON, BESIDE + 1)
  is_pair = jax.random.bernoulli(k_pair, pairs)
  second = jnp.where(relation == ON, base, other)
  return jnp.where(is_pair, first, kind), jnp.where(is_pair, relation, ALONE), jnp.where(is_pair, second, 0)


def sample_of(key: Key[Array, ''], kind_a: Int[Array, ''], relation: Int[Array, ''], kind_b: Int[Array, '']) -> Item:
  """An item of a given composition: the two colours differ, and a quarter of the lone toys wear a pattern."""
  k_colour, k_pattern, k_which = jax.random.split(key, 3)
  is_pair = relation != ALONE
  first, step = jax.random.randint(k_colour, (2,), jnp.array([0, 1]), len(COLOURS))
  second = jnp.where(is_pair, (first + step) % len(COLOURS), 0)
  pattern = jnp.where(jax.random.bernoulli(k_pattern, .25) & ~is_pair, jax.random.randint(k_which, (), 1, len(PATTERNS)), 0)
  kind = jnp.stack([kind_a, jnp.where(is_pair, kind_b, 0)])
  return Item(kind, relation, jnp.stack([first, second]), jnp.stack([pattern, jnp.zeros_like(pattern)]))


def sample(key: Key[Array, ''], *, pairs: float = .4) -> Item:
  """A random item."""
  k_composition, k_rest = jax.random.split(key)
  return sample_of(k_rest, *sample_composition(k_composition, pairs=pairs))


# ---------------------------------------------------------------------------------------------------------- language

NOUNS = dict(sphere=('sphere', 'ball', 'globe'), cube=('cube', 'block', 'box'), cylinder=('cylinder', 'drum', 'tube'),
             torus=('torus', 'ring', 'donut', 'doughnut'), capsule=('capsule', 'pill'), mug=('mug', 'cup'),
             house=('house', 'cottage'), castle=('castle', 'fort'), car=('car', 'automobile'), truck=('truck', 'lorry'),
             chair=('chair', 'seat'), table=('table', 'desk'), mushroom=('mushroom', 'toadstool'),
             rocket=('rocket', 'spaceship'), airplane=('airplane', 'plane', 'aeroplane'), boat=('boat', 'sailboat', 'ship'),
             duck=('duck', 'bird'), bear=('bear', 'teddy'))
NOUNS = {k: NOUNS.get(k, (k,)) for k in KINDS}
COLOUR_NAMES = {c: {'purple': ('purple', 'violet'), 'cyan': ('cyan', 'turquoise'), 'grey': ('grey', 'gray')}.get(c, (c,))
                for c in COLOURS}
PATTERN_NAMES = dict(striped=('striped', 'stripy'), checkered=('checkered', 'checked', 'chequered'), spotted=('spotted', 'dotted'))
PATTERN_NOUNS = dict(striped=('stripes',), checkered=('checks',), spotted=('spots', 'dots'))
VIEW_WORDS = ('front', 'side', 'back', 'overhead')
RELATION_PHRASES = {('on',): ON, ('on', 'top', 'of'): ON, ('beside',): BESIDE, ('next', 'to'): BESIDE,
                    ('under',): -ON, ('below',): -ON, ('beneath',): -ON}       # minus: the second stands on the first
FILLERS = ('a', 'an', 'the', 'in', 'with', 'wearing', 'hat')

LENGTH = 16


def _vocabulary():
  groups = [FILLERS, *NOUNS.values(), *COLOUR_NAMES.values(), *PATTERN_NAMES.values(), *PATTERN_NOUNS.values(),
            *RELATION_PHRASES, VIEW_WORDS, ('view',)]
  return ('<pad>', '<bos>', *dict.fromkeys(w for g in groups for w in g), '<eos>')


VOCABULARY = _vocabulary()
ID = {w: i for i, w in enumerate(VOCABULARY)}
PAD, BOS, EOS = ID['<pad>'], ID['<bos>'], ID['<eos>']
MEANING = {w: (slot, i) for slot, names in (('kind', NOUNS), ('colour', COLOUR_NAMES), ('pattern', {'plain': (), **PATTERN_NAMES}))
           for i, row in enumerate(names.values()) for w in row}
MEANING |= {w: ('pattern', PATTERNS.index(p)) for p, row in PATTERN_NOUNS.items() for w in row}
NONE = -1                                        # an empty place in a caption, closed up at the end


def _choices(rows, width=6):
  """[n, width] ids: the first word of a row half of the time, the others in turn."""
  spread = lambda row: [row[0] if i % 2 == 0 or len(row) == 1 else row[1 + (i // 2) % (len(row) - 1)] for i in range(width)]
  return np.array([[ID[w] for w in spread(row)] if row else [NONE] * width for row in rows])


NOUN_IDS, COLOUR_IDS = _choices(NOUNS.values()), _choices(COLOUR_NAMES.values())
PATTERN_IDS, PLURAL_IDS = _choices([(), *PATTERN_NAMES.values()]), _choices([(), *PATTERN_NOUNS.values()])
VIEW_IDS = np.array([[ID[w], ID['view']] for w in VIEW_WORDS] + [[NONE, NONE]])        # the last row, at -1, says nothing
ON_IDS = np.array([[ID['on'], NONE, NONE], [ID['on'], ID['top'], ID['of']], [ID['under'], NONE, NONE],
                   [ID['below'], NONE, NONE], [ID['beneath'], NONE, NONE]])
BESIDE_IDS = np.array([[ID['beside'], NONE, NONE], [ID['next'], ID['to'], NONE]])
IS_VOWEL = np.array([w[0] in 'aeiou' for w in VOCABULARY])


def _phrase(dice, article, kind, colour, pattern):
  """[8] ids with gaps: one toy in one of the forms it may be named by."""
  noun, tint = (jnp.asarray(t)[i, d % 6] for t, i, d in ((NOUN_IDS, kind, dice[0]), (COLOUR_IDS, colour, dice[1])))
  texture, plural = (jnp.asarray(t)[pattern, dice[2] % 6] for t in (PATTERN_IDS, PLURAL_IDS))
  with_ = jnp.where(pattern > 0, ID['with'], NONE)
  hat = lambda verb: [article, noun, verb, ID['a'], texture, tint, ID['hat'], NONE]
  forms = [[article, texture, tint, noun] + [NONE] * 4, [article, tint, texture, noun] + [NONE] * 4,
           [article, noun, ID['in'], texture, tint] + [NONE] * 3, [article, noun, texture, tint] + [NONE] * 4,
           [article, tint, noun, with_, plural] + [NONE] * 3, hat(ID['with']), hat(ID['wearing'])]
  plain = jnp.array([0, 0, 0, 0, 0, 1, 1, 2, 3, 4])[dice[3] % 10]
  dressed = jnp.array([5, 5, 5, 6, 6, 0])[dice[3] % 6]
  form = jnp.where(kind == KINDS.index('snowman'), dressed, plain)
  return jnp.array([jnp.stack([jnp.asarray(w) for w in f]) for f in forms])[form]


def tokens(key: Key[Array, ''], item: Item, view: Int[Array, '']) -> Int[Array, 'L']:
  """A random caption; view -1 none, 0 front, 1 side, 2 back, 3 overhead. Runs inside jit."""
  dice = jax.random.randint(key, (10,), 0, 2520)
  article = jnp.array([ID['a']] * 6 + [ID['the'], NONE, NONE])[dice[8] % 9]
  first, second = (_phrase(dice[4 * i:4 * i + 4], article, item.kind[i], item.colour[i], item.pattern[i]) for i in range(2))
  on, beside = jnp.asarray(ON_IDS)[dice[9] % 5], jnp.asarray(BESIDE_IDS)[dice[9] % 2]
  between = jnp.where(item.relation == ON, on, beside)
  is_pair, swap = item.relation != ALONE, (item.relation == ON) & (dice[9] % 5 >= 2)
  a, b = jnp.where(swap, second, first), jnp.where(swap, first, second)
  rest = jnp.where(is_pair, jnp.concatenate([between, b]), NONE)
  ids = jnp.concatenate([jnp.array([BOS]), a, rest, jnp.asarray(VIEW_IDS)[view], jnp.array([EOS])])
  ids = ids[jnp.argsort(ids == NONE, stable=True)][:LENGTH]
  following = jnp.append(ids[1:], NONE)
  ids = jnp.where((ids == ID['a']) & jnp.asarray(IS_VOWEL)[following], ID['an'], ids)
  return jnp.where(ids == NONE, PAD, ids).astype(jnp.int32)


def caption(item: Item) -> str:
  """The canonical caption."""
  def phrase(i):
    kind, colour = KINDS[int(item.kind[i])], tuple(COLOURS)[int(item.colour[i])]
    texture = PATTERNS[int(item.pattern[i])] + ' ' if int(item.pattern[i]) else ''
    adjectives = f'{texture}{colour}'
    a = lambda words: ('an ' if words[0] in 'aeiou' else 'a ') + words
    return a(f'snowman with {a(adjectives)} hat' if kind == 'snowman' else f'{adjectives} {kind}')
  if int(item.relation) == ALONE:
    return phrase(0)
  return f'{phrase(0)} {RELATIONS[int(item.relation)]} {phrase(1)}'


def words(ids: Int[Array, 'L'] | np.ndarray) -> str:
  """The text of a row of token ids."""
  return ' '.join(VOCABULARY[int(i)] for i in ids if int(i) not in (PAD, BOS, EOS))


def _split(text):
  """Known lower-case words of a caption; ValueError names the first unknown one and its neighbours."""
  out = ''.join(c if c.isalnum() else ' ' for c in text.lower()).split()
  for w in out:
    if w not in ID:
      near = difflib.get_close_matches(w, VOCABULARY[2:-1], n=3, cutoff=.6)
      hint = f'did you mean {" or ".join(near)}?' if near else f'known things: {", ".join(KINDS)}'
      raise ValueError(f'unknown word {w!r} in {text!r}; {hint}')
  return out


def tokenize(text: str) -> np.ndarray:
  """[LENGTH] int32 ids of a caption; '' is the empty prompt."""
  ids = [BOS, *(ID[w] for w in _split(text)), EOS]
  if len(ids) > LENGTH:
    raise ValueError(f'{text!r} has {len(ids) - 2} words; at most {LENGTH - 2} fit')
  return np.array(ids + [PAD] * (LENGTH - len(ids)), np.int32)


def _toy(found, text):
  """(kind, colour, pattern) of one noun phrase."""
  got = {}
  for w in found:
    if w in MEANING:
      slot, i = MEANING[w]
      if got.setdefault(slot, i) != i:
        raise ValueError(f'two {slot}s in {" ".join(found)!r}; {FORMS}')
    elif w not in FILLERS:
      raise ValueError(f'{w!r} is out of place in {text!r}; {FORMS}')
  if 'kind' not in got:
    raise ValueError(f'no toy in {" ".join(found) or text!r}; name one of {", ".join(KINDS)}')
  if 'colour' not in got:
    raise ValueError(f'no colour for the {KINDS[got["kind"]]} in {text!r}; name one of {", ".join(COLOURS)}')
  return got['kind'], got['colour'], got.get('pattern', 0)


FORMS = ("understood: 'a red car', 'a striped blue mug', 'a snowman with a green hat', 'a red cone on a blue cube', "
         "'a red cube under a blue ball', 'a pink egg beside a grey pyramid'")


def parse(text: str) -> Item:
  """The item a caption names; view words are ignored. ValueError says in one line what is not understood."""
  found = _split(text)
  if found[-1:] == ['view'] and found[-2:-1] and found[-2] in VIEW_WORDS:
    found = found[:-2]
  places = [(i, phrase) for phrase in sorted(RELATION_PHRASES, key=len, reverse=True) for i in range(len(found))
            if tuple(found[i:i + len(phrase)]) == phrase]
  if not places:
    kind, colour, pattern = _toy(found, text)
    return _item((kind, 0), ALONE, (colour, 0), (pattern, 0))
  at, phrase = places[0]
  relation, ends = RELATION_PHRASES[phrase], [found[:at], found[at + len(phrase):]]
  (kind_a, colour_a, pattern_a), (kind_b, colour_b, pattern_b) = (
    _toy(end, text) for end in (ends if relation > 0 else ends[::-1]))
  for kind in (kind_a, kind_b):
    if kind >= len(SOLIDS):
      raise ValueError(f'a {KINDS[kind]} stands alone here; pairs are made of {", ".join(SOLIDS)}')
  if abs(relation) == ON and KINDS[kind_b] not in BASES:
    raise ValueError(f'nothing stands on a {KINDS[kind_b]} here; bases are {", ".join(BASES)}')
  return _item((kind_a, kind_b), abs(relation), (colour_a, colour_b), (pattern_a, pattern_b))


def _item(kind, relation, colour, pattern):
  return Item(*(jnp.array(v, jnp.int32) for v in (kind, relation, colour, pattern)))
