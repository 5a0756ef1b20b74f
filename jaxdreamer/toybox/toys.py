"""The toys: each maps p = (x, y, z), three arrays of one shape, to (distance, slot).

A toy fills the ball of radius .9 about the origin (world.py cuts off what juts out), z up, its
front facing +x.
`distance` is as in primitives.py (exact for the sphere and the cube); `slot` says which color the
nearest surface wears:
MAIN the item's own, SHADE a darker one, or one of FIXED, such as wheels, glass and wood. What
breaks a symmetry is exaggerated: 32 pixels show it.
"""
import jax.numpy as jnp

from jaxdreamer.toybox.primitives import (
  along_x,
  along_y,
  ball,
  blob,
  box,
  dress,
  drum,
  lean,
  least,
  most,
  move,
  norm,
  pear,
  ring,
  rod,
  spike,
  taper,
  wrap,
)

MAIN, SHADE, DARK, GLASS, WOOD, SNOW, CARROT, LIGHT, STEEL, TAIL, ROOF, CREAM = range(12)
FIXED = ((0., 0., 0.), (0., 0., 0.), (.10, .10, .11), (.50, .76, .93), (.46, .28, .13),
         (.96, .96, .97),
         (1., .48, .06), (1., .90, .38), (.66, .68, .72), (.80, .06, .06), (.50, .20, .14),
         (.93, .87, .74))

# The sizes of the solids; world.py stacks them by these.
BALL, CUBE, CAN_R, CAN_H, TORUS_R, TORUS_r = .8, .51, .5, .7, .6, .26
CONE_R, CONE_LOW, CONE_TOP = .68, -.55, .85
PYRAMID_R, PYRAMID_LOW, PYRAMID_TOP = .53, -.48, .8
PILL_R, PILL_H = .38, .5
EGG = (.57, .39, -.22, .34)


def sphere(p):
  """A ball."""
  return dress((norm(*p) - BALL, MAIN))


def cube(p):
  """A cube with its faces along the axes."""
  return dress((box(p, (0., 0., 0.), (CUBE,) * 3), MAIN))


def cylinder(p):
  """An upright can."""
  return dress((drum(p, CAN_R, CAN_H), MAIN))


def cone(p):
  """A cone with its tip up."""
  return dress((spike(p, CONE_R, 0., CONE_LOW, CONE_TOP), MAIN))


def torus(p):
  """A ring that lies flat."""
  return dress((ring(p, TORUS_R, TORUS_r), MAIN))


def pyramid(p):
  """A square pyramid with its tip up."""
  x, y, z = p
  return dress((taper(most(jnp.abs(x), jnp.abs(y)), z, PYRAMID_R, 0., PYRAMID_LOW, PYRAMID_TOP),
                MAIN))


def capsule(p):
  """An upright pill."""
  return dress((rod(p, (0., 0., -PILL_H), (0., 0., PILL_H), PILL_R), MAIN))


def egg(p):
  """An egg, standing."""
  return dress((pear(p, *EGG), MAIN))


# --------------------------------------------------------------------------------------------------
# things


def mug(p):
  """Handle towards +y."""
  body = move(p, 0., -.15, 0.)
  handle = ring(along_x(move(p, 0., .37, 0.)), .28, .085)
  hollow = drum(move(body, 0., 0., .12), .41, .6)
  return dress((most(least(drum(body, .5, .6, soft=.03), handle), -hollow), MAIN))


def teapot(p):
  """Spout towards +x, handle behind."""
  body = blob(p, (0., 0., -.14), (.56, .56, .48))
  spout = rod(p, (.44, 0., -.22), (.76, 0., .2), .09)
  handle = ring(along_y(move(p, -.55, 0., -.08)), .24, .07)
  lid = drum(move(p, 0., 0., .33), .28, .05, soft=.03)
  return dress((least(body, spout), MAIN), (handle, MAIN), (lid, SHADE),
               (ball(p, (0., 0., .48), .11), SHADE),
               (ball(p, (.79, 0., .25), .06), DARK))


def house(p):
  """Door, windows and gable in front; chimney at the back."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  roof_plane = .7287 * jnp.abs(y) + .6848 * (z - .70)
  walls = most(jnp.abs(x) - .46, jnp.abs(y) - .46, -.55 - z, roof_plane + .06)
  roof = most(jnp.abs(roof_plane + .05) - .05, jnp.abs(x) - .55, -.03 - z)
  return dress((walls, MAIN), (roof, ROOF), (box(p, (.46, 0., -.32), (.03, .13, .23)), DARK),
               (box(flip, (.46, .3, -.2), (.03, .1, .12)), GLASS),
               (box(p, (.46, 0., .2), (.03, .1, .1)), GLASS),
               (box(flip, (0., .46, -.2), (.16, .03, .12)), GLASS),
               (ball(p, (.5, .07, -.33), .035), LIGHT),
               (box(p, (-.3, .3, .5), (.09, .09, .2)), DARK))


def castle(p):
  """Four towers, a gate in front and a flag."""
  x, y, z = p
  four = jnp.abs(x) - .42, jnp.abs(y) - .42, z
  teeth = jnp.abs(wrap(x + .06, .24) - .12), jnp.abs(wrap(y + .06, .24) - .12)
  wall = box(p, (0., 0., -.18), (.42, .42, .27))
  gap = most(.06 - most(*teeth), -.02 - z)
  return dress((most(wall, -gap * .7), MAIN), (drum(move(four, 0., 0., -.1), .18, .35), MAIN),
               (spike(four, .25, 0., .25, .64), ROOF), (box(p, (.42, 0., -.28), (.03, .14, .16)),
                                                        DARK),
               (drum(along_x(move(p, .42, 0., -.12)), .14, .03), DARK),
               (box(p, (0., 0., .15), (.17, .17, .3)), MAIN),
               (rod(p, (0., 0., .4), (0., 0., .84), .025), DARK),
               (box(p, (0., .13, .74), (.025, .13, .09)), TAIL))


def car(p):
  """Headlights and windscreen in front (+x), red lamps behind."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  wheel = along_y(move((jnp.abs(x), jnp.abs(y), z), .45, .35, -.24))
  cabin = taper(most(jnp.abs(x + .1) - .12, jnp.abs(y)), z, .36, .24, .04, .38)
  return dress((box(p, (0., 0., -.1), (.76, .36, .17), soft=.07), MAIN), (cabin, GLASS),
               (box(p, (-.1, 0., .36), (.36, .25, .045), soft=.04), MAIN),
               (box(flip, (-.1, .29, .2), (.035, .05, .16)), MAIN),
               (drum(wheel, .2, .08, soft=.02), DARK),
               (drum(wheel, .09, .1), STEEL), (ball(flip, (.74, .23, -.06), .1), LIGHT),
               (box(flip, (-.76, .23, -.05), (.03, .1, .07)), TAIL),
               (box(p, (.77, 0., -.19), (.02, .3, .05)), STEEL))


def truck(p):
  """Cab in front, tall box behind."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  wheel = along_y(move((jnp.abs(x), jnp.abs(y), z), .47, .31, -.43))
  return dress((box(p, (-.24, 0., .06), (.5, .35, .4), soft=.03), MAIN),
               (box(p, (.51, 0., -.12), (.21, .32, .25), soft=.05), MAIN),
               (box(p, (0., 0., -.4), (.72, .28, .07)), DARK),
               (box(p, (.71, 0., .0), (.03, .26, .09)), GLASS),
               (box(flip, (.53, .32, .0), (.1, .02, .09)), GLASS),
               (drum(wheel, .17, .08, soft=.02), DARK),
               (drum(wheel, .08, .1), STEEL), (ball(flip, (.71, .22, -.24), .075), LIGHT),
               (box(flip, (-.745, .22, -.24), (.02, .08, .06)), TAIL))


def snowman(p):
  """Nose, eyes and buttons in front; hat and scarf wear the main color."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  snow = least(ball(p, (0., 0., -.5), .38), ball(p, (0., 0., .03), .29),
               ball(p, (0., 0., .42), .235))
  hat = least(drum(move(p, 0., 0., .585), .3, .03), drum(move(p, 0., 0., .72), .19, .16))
  dots = least(ball(p, (.29, 0., .1), .055), ball(p, (.29, 0., -.06), .055),
               ball(p, (.36, 0., -.38), .06))
  return dress((snow, SNOW), (hat, MAIN), (ring(move(p, 0., 0., .24), .21, .075), MAIN),
               (spike(along_x(move(p, .2, 0., .41)), .08, .0, 0., .36), CARROT),
               (ball(flip, (.19, .1, .48), .05), DARK), (dots, DARK),
               (rod(flip, (0., .24, .06), (0., .6, .24), .035), WOOD))


def chair(p):
  """The sitter looks towards +x."""
  x, y, z = p
  legs = box((jnp.abs(x), jnp.abs(y), z), (.3, .3, -.4), (.055, .055, .3))
  back = most(box(p, (-.31, 0., .3), (.05, .36, .42), soft=.02),
              -box(p, (-.31, 0., .22), (.2, .2, .12)))
  return dress((legs, MAIN), (box(p, (0., 0., -.1), (.37, .37, .06), soft=.02), MAIN), (back, MAIN))


def table(p):
  """A table on four legs, in a darker shade."""
  x, y, z = p
  legs = box((jnp.abs(x), jnp.abs(y), z), (.55, .35, -.08), (.065, .065, .36))
  return dress((legs, SHADE), (box(p, (0., 0., .33), (.67, .46, .065), soft=.02), MAIN))


def bed(p):
  """Head at -x; the blanket wears the main color."""
  x, y, z = p
  legs = box((jnp.abs(x), jnp.abs(y), z), (.66, .36, -.3), (.06, .05, .13))
  return dress((box(p, (0., 0., -.16), (.72, .4, .08)), WOOD),
               (box(p, (0., 0., -.02), (.69, .38, .09), soft=.05), SNOW),
               (box(p, (.19, 0., .0), (.53, .415, .11), soft=.05), MAIN), (legs, WOOD),
               (box(p, (-.70, 0., .07), (.05, .41, .31), soft=.03), WOOD),
               (box(p, (.71, 0., -.1), (.045, .41, .16)), WOOD),
               (box(p, (-.46, 0., .11), (.15, .27, .07), soft=.06), SNOW))


def lamp(p):
  """A table lamp: foot, rod, bulb and an open shade."""
  bell = most(spike(p, .56, .28, .12, .72), -spike(p, .5, .22, .08, .76))
  return dress((bell, MAIN), (rod(p, (0., 0., -.75), (0., 0., .3), .05), STEEL),
               (ball(p, (0., 0., .38), .15), LIGHT),
               (drum(move(p, 0., 0., -.73), .36, .07, soft=.03), DARK))


def mushroom(p):
  """A half ball of a cap over a cream stem."""
  x, y, z = p
  cap = most(blob(p, (0., 0., .0), (.74, .74, .74)), .1 - z)
  return dress((cap, MAIN), (drum(move(p, 0., 0., .08), .66, .03), CREAM),
               (spike(p, .3, .19, -.8, .12), CREAM))


def tree(p):
  """A fir: three cones on a trunk."""
  leaves = least(spike(p, .62, .16, -.42, .1), spike(p, .5, .12, -.02, .46),
                 spike(p, .37, .0, .34, .88))
  return dress((leaves, MAIN), (drum(move(p, 0., 0., -.62), .14, .23), WOOD))


def cactus(p):
  """A potted cactus: the lower arm towards +y, the upper towards -y."""
  arms = least(rod(p, (0., .0, -.12), (0., .42, -.12), .11),
               rod(p, (0., .42, -.12), (0., .42, .26), .11),
               rod(p, (0., .0, .12), (0., -.4, .12), .1),
               rod(p, (0., -.4, .12), (0., -.4, .44), .1))
  pot = least(spike(p, .25, .34, -.84, -.46), drum(move(p, 0., 0., -.46), .38, .06))
  return dress((rod(p, (0., 0., -.4), (0., 0., .66), .2), MAIN), (arms, MAIN), (pot, ROOF))


def rocket(p):
  """Porthole in front."""
  x, y, z = p
  fin = jnp.maximum(jnp.abs(x), jnp.abs(y)), jnp.minimum(jnp.abs(x), jnp.abs(y)), z
  fins = most(box(fin, (.3, 0., -.48), (.28, .045, .28)), (fin[0] + .8 * z - .30) * .78)
  return dress((spike(p, .29, .27, -.5, .35), MAIN), (spike(p, .27, 0., .35, .88), SNOW),
               (fins, SNOW),
               (drum(along_x(move(p, .25, 0., .12)), .16, .07), STEEL),
               (drum(along_x(move(p, .27, 0., .12)), .11, .07), GLASS),
               (spike((x, y, -z), .2, 0., .5, .86), CARROT))


def airplane(p):
  """Nose and cockpit towards +x."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  wing = box(flip, (.05, .43, -.03), (.19, .42, .045), soft=.04)
  engine = rod(flip, (.1, .42, -.12), (.24, .42, -.12), .085)
  return dress((rod(p, (-.66, 0., 0.), (.66, 0., 0.), .19), MAIN), (wing, STEEL), (engine, DARK),
               (box(flip, (-.7, .2, .04), (.1, .2, .035)), STEEL),
               (most(box(p, (-.68, 0., .25), (.16, .04, .25)), (x + .6 * z + .5) * .85), MAIN),
               (blob(p, (.6, 0., .13), (.15, .13, .1)), GLASS))


def boat(p):
  """Bow towards +x, one sail."""
  x, y, z = p
  hull = most(.8 * jnp.abs(y) + .5 * x - .42, (jnp.abs(y) - .42 - .4 * (z + .28)) * .92,
              (-.68 - x + .2 * (z + .28)) * .98,
              (x - .78 - .6 * (z + .28)) * .85, z + .28, -.62 - z)
  sail = most(jnp.abs(y) - .035, (x + .55 * z - .47) * .87, -.02 - x, -.1 - z)
  jib = most(jnp.abs(y) - .035, (-x + .8 * z - .62) * .78, x + .14, .0 - z)
  return dress((hull, MAIN), (rod(p, (-.07, 0., -.3), (-.07, 0., .83), .035), WOOD), (sail, SNOW),
               (jib, SNOW))


def duck(p):
  """Beak towards +x."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  body = blob(p, (-.08, 0., -.28), (.6, .44, .4))
  tail = spike(lean(move(p, -.5, 0., -.2), -.75), .22, .0, -.05, .42)
  return dress((least(body, tail), MAIN), (ball(p, (.3, 0., .3), .31), MAIN),
               (pear(move(p, .22, 0., 0.), .26, .2, -.1, .2), MAIN),
               (blob(p, (.64, 0., .25), (.2, .17, .08)), CARROT),
               (ball(flip, (.5, .17, .42), .065), DARK),
               (blob(flip, (-.14, .38, -.22), (.3, .1, .2)), SHADE))


def robot(p):
  """Eyes, mouth and chest panel in front."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  return dress((box(p, (0., 0., -.14), (.25, .35, .31), soft=.04), MAIN),
               (box(p, (0., 0., .43), (.23, .29, .21), soft=.04), MAIN),
               (drum(move(p, 0., 0., .2), .11, .06), DARK),
               (ball(flip, (.22, .13, .48), .085), LIGHT),
               (box(p, (.23, 0., .3), (.025, .16, .035)), DARK),
               (box(p, (.25, 0., -.1), (.025, .2, .13)), GLASS),
               (rod(flip, (0., .44, .08), (.06, .52, -.34), .085), STEEL),
               (ball(flip, (.07, .52, -.4), .12), DARK),
               (box(flip, (0., .17, -.58), (.12, .11, .17)), STEEL),
               (box(flip, (.07, .17, -.78), (.22, .14, .06)), DARK),
               (rod(p, (0., 0., .6), (0., 0., .76), .03), STEEL),
               (ball(p, (0., 0., .79), .075), TAIL))


def bear(p):
  """A sitting teddy: muzzle, eyes and belly in front."""
  x, y, z = p
  flip = x, jnp.abs(y), z
  return dress((ball(p, (0., 0., -.34), .42), MAIN), (ball(p, (0., 0., .3), .34), MAIN),
               (ball(flip, (0., .28, .58), .15), MAIN), (ball(flip, (.08, .28, .58), .1), CREAM),
               (ball(p, (.27, 0., .2), .17), CREAM), (ball(p, (.42, 0., .26), .075), DARK),
               (ball(flip, (.27, .15, .4), .06), DARK), (ball(p, (.14, 0., -.36), .32), CREAM),
               (rod(flip, (.08, .36, -.12), (.3, .5, -.22), .12), MAIN),
               (rod(flip, (.1, .26, -.62), (.4, .32, -.64), .15), MAIN),
               (ball(p, (-.42, 0., -.55), .12), MAIN))


def guitar(p):
  """Neck, sound hole and bridge in front."""
  low, high = move(p, 0., 0., -.46), move(p, 0., 0., -.08)
  body = least(drum(along_x(low), .40, .12, soft=.03), drum(along_x(high), .30, .12, soft=.03))
  return dress((body, MAIN), (box(p, (.1, 0., .3), (.05, .065, .42)), WOOD),
               (box(p, (.09, 0., .76), (.05, .11, .11), soft=.02), DARK),
               (drum(along_x(move(p, .1, 0., -.2)), .13, .04), DARK),
               (box(p, (.13, 0., -.56), (.04, .17, .04)), DARK))


def smaller(toy, size):
  """A toy drawn `size` times as large: for those whose tips would leave the ball."""
  def small(p):
    distance, slot = toy(tuple(u / size for u in p))
    return size * distance, slot
  return small


SOLIDS = dict(sphere=sphere, cube=cube, cylinder=cylinder, cone=cone, torus=torus, pyramid=pyramid,
              capsule=capsule,
              egg=egg)
TOYS = dict(SOLIDS, mug=mug, teapot=teapot, house=house, castle=castle, car=car,
            truck=smaller(truck, .97), snowman=snowman,
            chair=chair, table=table, bed=smaller(bed, .96), lamp=lamp, mushroom=mushroom,
            tree=tree, cactus=cactus,
            rocket=smaller(rocket, .93), airplane=smaller(airplane, .92), boat=smaller(boat, .885),
            duck=duck,
            robot=smaller(robot, .95), bear=smaller(bear, .915), guitar=guitar)
KINDS = tuple(TOYS)
FRONT = ('teapot', 'house', 'castle', 'car', 'truck', 'snowman', 'chair', 'bed', 'rocket',
         'airplane', 'boat', 'duck',
         'robot', 'bear', 'guitar')  # the kinds whose front and back differ at a glance
BASES = ('sphere', 'cube', 'cylinder', 'cone', 'torus')      # what another solid may stand on
