"""An object -> textured triangle mesh, in files.

The surface is a level set of the distance where the scene has one, else of the density: that whose
silhouettes agree best with the rendered opacity. surface.py makes triangles and takes most of them
away again, silhouettes.py compares outlines, unwrap.py lays the surface flat, bake.py fills its
textures, mesh_files.py writes the formats. A mesh of the user's own is another matter: given.py.
"""
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import trimesh
from jaxtyping import Bool, Float

from jaxdreamer.objects import Object
from jaxdreamer.outputs import bake, given, inside, silhouettes, surface, unwrap, video
from jaxdreamer.outputs.mesh_files import FORMATS, points_to_ply, save
from jaxdreamer.outputs.surface import Empty, Mesh
from jaxdreamer.scores import iou
from jaxdreamer.types import Camera, Rendering


def solid(opacity: Float[np.ndarray, 'V H W']) -> Bool[np.ndarray, 'V H W']:
  """What counts as object in a render: at least half of the largest opacity, so that thin fog has a
  shape too."""
  peak = float(opacity.max())
  if not peak > .05:
    raise Empty(f'no mesh: the scene is empty, its largest rendered opacity is {peak:.3f}')
  return opacity >= .5 * peak


def overlap(seen: Bool[np.ndarray, 'V H W'], target: Bool[np.ndarray, 'V H W']) -> float:
  """The mean IoU of silhouettes."""
  return float(np.mean([iou(s, t) for s, t in zip(seen, target)]))


def extract(object: Object, camera: Camera, opacity: Float[np.ndarray, 'V size size'], *,
            resolution: int = 96) -> tuple[Mesh, dict]:
  """The mesh whose silhouettes match the rendered `opacity` in the [V] cameras, or Object.mesh
  where there is one, and a report of how well.

  silhouette_iou compares the finished mesh (rasterized, floaters gone) with the render; .95 or more
  is a faithful mesh. level is of the object's distance, sign turned, or of its log density.
  """
  target, radius = solid(opacity), object.radius
  if object.given:
    mesh, facts = given.painted(object)
    return mesh, facts | compared(mesh, camera, opacity, resolution)
  grid = surface.grid_of(object, resolution)
  level, _ = silhouettes.match_level(grid, camera, target, radius=radius)
  found = surface.drop_floaters(trimesh.Trimesh(*object.mesh(), process=False) if object.mesh
                                else surface.isosurface(grid, level, radius=radius))
  vertices, faces, normals = map(np.asarray, (found.vertices, found.faces, found.vertex_normals))
  colors = surface.paint(object.density, object.color, vertices, -normals,
                         cell=2. * radius / (resolution - 1))
  mesh = Mesh(vertices, faces, colors)
  return mesh, {'vertices': len(vertices), 'faces': len(faces), 'watertight': found.is_watertight,
                'level': level} | compared(mesh, camera, opacity, resolution)


def compared(mesh: Mesh, camera: Camera, opacity: Float[np.ndarray, 'V size size'],
             resolution: int) -> dict:
  """What `extract` reports of a mesh and the render."""
  seen = silhouettes.silhouettes(mesh.vertices, mesh.faces, camera, size=opacity.shape[-1])
  return {'silhouette_iou': overlap(seen, solid(opacity)), 'peak_opacity': float(opacity.max()),
          'resolution': resolution}


def matched(object: Object, *, resolution: int = 96) -> tuple[Mesh, dict, Camera, Rendering]:
  """`extract`, or of a scene one stands in the surface around the air; and the [V] cameras it was
  held against, with what they see."""
  camera = inside.lookouts(object) if object.inside else silhouettes.lookouts(radius=object.radius)
  views = video.render_views(object.over(1.), camera)
  return *(inside.extract(object, camera, views, resolution=resolution) if object.inside
           else extract(object, camera, views.opacity, resolution=resolution)), camera, views


def asset(mesh: Mesh, object: Object, *, faces: int, texture: int, cell: float) -> Mesh:
  """`mesh` as it is taken elsewhere: simplified to `faces`, and on it the colors of the object and
  the normals of `mesh` in images of [texture, texture]. 0 leaves either out. `cell` is that of the
  grid of `mesh`."""
  small = surface.simplify(mesh, faces)
  if not texture:
    return small
  return bake.texture(small, mesh, unwrap.unwrap(small.vertices, small.faces, size=texture),
                      partial(surface.paint, object.density, object.color, cell=cell),
                      size=texture, width=.5 * cell)


def write(object: Object, folder: pathlib.Path, *, resolution: int = 96,
          formats: tuple[str, ...] = FORMATS, faces: int = 15_000, texture: int = 1024,
          points: int = 0) -> tuple[Mesh, dict]:
  """`extract`, and its files in `folder`: the mesh itself in PLY and its `asset` in the other
  formats, mesh.json with the report, mesh.png with the asset under the render; points.ply too where
  `points` > 0. Of a scene one stands in, the surface around the air; a mesh of the user's own at
  its own size and place. Raises Empty where there is no mesh."""
  mesh, facts, camera, views = matched(object, resolution=resolution)
  if object.given:
    small, written, said = given.asset(object, mesh, texture=texture)
  else:
    small = asset(mesh, object, faces=faces, texture=texture,
                  cell=2. * object.radius / (resolution - 1))
    written, said = (mesh, small), {}
  size = views.opacity.shape[-1]
  with ThreadPoolExecutor() as beside:           # much of it is zlib's, which leaves Python free
    saved = [beside.submit(save, written[name != 'ply'], folder, formats=(name,))
             for name in formats]
    seen = silhouettes.silhouettes(small.vertices, small.faces, camera, size=size)
    drawn = [silhouettes.picture(small, one, size=size) for one in video.unbatch(camera)]
    for each in saved:
      each.result()
  facts['asset'] = {
    'faces': len(small.faces), 'vertices': len(small.vertices), 'texture': texture,
    'silhouette_iou': overlap(seen, solid(views.opacity))} | said
  (folder / 'mesh.json').write_text(json.dumps(facts, indent=2) + '\n')
  (folder / 'mesh.png').write_bytes(video.png(video.sheet([*np.clip(views.rgb, 0., 1.), *drawn],
                                                          columns=len(drawn))))
  if points:
    (folder / 'points.ply').write_bytes(points_to_ply(*surface.sample_points(written[0], points)))
  return mesh, facts
