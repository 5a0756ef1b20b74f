"""Density -> colored triangle mesh, in files.

The surface is {density = threshold}, and the threshold is the one whose silhouettes agree best with
the rendered opacity. surface.py makes triangles, silhouettes.py compares outlines, mesh_files.py
writes the formats.
"""
import json
import pathlib
from typing import Callable

import numpy as np
from jaxtyping import Bool, Float

from jaxdreamer.objects import Object
from jaxdreamer.outputs import inside, silhouettes, surface, video
from jaxdreamer.outputs.mesh_files import FORMATS, points_to_ply, save
from jaxdreamer.outputs.surface import Empty, Mesh
from jaxdreamer.scores import iou
from jaxdreamer.types import Camera


def solid(opacity: Float[np.ndarray, 'V H W']) -> Bool[np.ndarray, 'V H W']:
  """What counts as object in a render: at least half of the largest opacity, so that thin fog has a
  shape too."""
  peak = float(opacity.max())
  if not peak > .05:
    raise Empty(f'no mesh: the scene is empty, its largest rendered opacity is {peak:.3f}')
  return opacity >= .5 * peak


def extract(density: Callable, color: Callable, camera: Camera,
            opacity: Float[np.ndarray, 'V size size'], *,
            radius: float = 1., resolution: int = 96) -> tuple[Mesh, dict]:
  """The mesh whose silhouettes match the rendered `opacity` in the [V] cameras, and a report of how
  well.

  silhouette_iou compares the finished mesh (rasterized, floaters gone) with the render; .95 or more
  is a faithful mesh.
  """
  target = solid(opacity)
  grid = surface.log_density(density, radius=radius, resolution=resolution)
  threshold, _ = silhouettes.match_threshold(grid, camera, target, radius=radius)
  found = surface.drop_floaters(surface.isosurface(grid, threshold, radius=radius))
  vertices, faces, normals = map(np.asarray, (found.vertices, found.faces, found.vertex_normals))
  colors = surface.paint(density, color, vertices, -normals, cell=2. * radius / (resolution - 1))
  seen = silhouettes.silhouettes(vertices, faces, camera, size=target.shape[-1])
  return Mesh(vertices, faces, colors), {
    'vertices': len(vertices), 'faces': len(faces), 'watertight': found.is_watertight,
    'threshold': threshold,
    'silhouette_iou': float(np.mean([iou(s, t) for s, t in zip(seen, target)])),
    'peak_opacity': float(opacity.max()), 'resolution': resolution}


def write(object: Object, folder: pathlib.Path, *, resolution: int = 96,
          formats: tuple[str, ...] = FORMATS, points: int = 0) -> tuple[Mesh, dict]:
  """`extract`, and its files in `folder`: those of the mesh, mesh.json with the report, mesh.png
  with the mesh under the render; points.ply too where `points` > 0. Of a scene one stands in, the
  surface around the air. Raises Empty where there is no mesh."""
  camera = inside.lookouts(object) if object.inside else silhouettes.lookouts(radius=object.radius)
  views = video.render_views(object.over(1.), camera)
  if object.inside:
    mesh, facts = inside.extract(object, camera, views, resolution=resolution)
  else:
    mesh, facts = extract(object.density, object.color, camera, views.opacity,
                          radius=object.radius, resolution=resolution)
  save(mesh, folder, formats=formats)
  (folder / 'mesh.json').write_text(json.dumps(facts, indent=2) + '\n')
  size = views.opacity.shape[-1]
  drawn = [silhouettes.picture(mesh, one, size=size) for one in video.unbatch(camera)]
  (folder / 'mesh.png').write_bytes(video.png(video.sheet([*np.clip(views.rgb, 0., 1.), *drawn],
                                                          columns=len(drawn))))
  if points:
    (folder / 'points.ply').write_bytes(points_to_ply(*surface.sample_points(mesh, points)))
  return mesh, facts
