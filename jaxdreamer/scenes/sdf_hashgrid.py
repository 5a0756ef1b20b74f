"""A signed distance by a hash grid and two small networks, of the distance and of the color:
threestudio calls it an implicit SDF. Detail where the scene needs it, and no blur: see
docs/your_scene.md for what that costs."""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxdreamer.scenes import fields, hashgrid, sdf, shapes, volsdf
from jaxdreamer.schedules import Schedule, at
from jaxdreamer.types import Scene


def sdf_hashgrid(*, levels: int = 8, per_level: int = 2, log2_table: int = 14, base: int = 8,
                 finest: int = 128, width: int = 64, shape: str = 'sphere', radius: float = .5,
                 radii: tuple[float, float, float] = (.6, .4, .4), fit: float = 0.,
                 density: str = 'volsdf', sharpness: Schedule = (10., 60., 200),
                 extent: float = 1., band: Schedule = (64.,)) -> Scene:
  """Levels -> one hidden layer each -> distance and color. threestudio: 16 levels, 2^19 rows, 16 to
  4096.

  Args:
    levels, per_level, log2_table, base, finest: of the grid, as scenes/hashgrid.py's.
    width: units of a network's layer.
    shape, radius, radii, fit: what a scene starts as, as scenes/sdf_voxels.py's.
    density: 'volsdf' or 'neus', as scenes/sdf_voxels.py's.
    sharpness: of the density along the run.
    extent: half a side of the cube that the levels fill.
    band: how many levels there are, a schedule, see hashgrid.fade_in; (1, 8, 100) trains coarse
      levels first.
  """
  sizes = [hashgrid.resolution(l, levels=levels, base=base, finest=finest) for l in range(levels)]
  start = shapes.start(shape, radius=radius, radii=radii, fit=fit, extent=extent,
                       option='config.scene.sdf_hashgrid.shape')

  def init(key: Key[Array, '']):
    k_tables, k_networks = jax.random.split(key)
    return volsdf.init_networks(k_networks, levels * per_level, hidden=(width,)) | {
      'tables': hashgrid.init_tables(k_tables, sizes, per_level=per_level, log2_table=log2_table)}

  def prepare(params, y):
    return params

  def raw(code, xyz):
    encoded = hashgrid.encode(code['tables'], xyz / extent, sizes=sizes)
    return jnp.concatenate([fields.network(code[name], encoded) for name in ('sdf', 'rgb')])

  return sdf.scene(init, prepare, raw, start=start, density=density, sharpness=sharpness,
                   focus=lambda code, step: hashgrid.fade_in(code, at(band, step)))
