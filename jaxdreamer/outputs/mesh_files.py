"""Meshes as bytes: GLB, OBJ, PLY.

GLB and OBJ are written y up, front +z, as glTF demands and readers of OBJ assume; PLY stays in the
world's frame. Colors are sRGB, but linear in the GLB, again as glTF demands.
"""
import pathlib

import numpy as np
import trimesh
from trimesh.visual.color import srgb_to_linear

from jaxdreamer.outputs.surface import Mesh, Points

Y_UP = np.array([[0., 1., 0.], [0., 0., 1.], [1., 0., 0.]])  # rows: glTF's x, y, z are our y, z, x


def to_glb(mesh: Mesh) -> bytes:
  """glTF 2.0 binary: y up, front +z, linear float colors, and a matt material (without one glTF
  means black metal)."""
  def finish(tree):
    primitive = tree['meshes'][0]['primitives'][0]
    primitive['attributes']['COLOR_0'] = primitive['attributes'].pop('_color')
    tree['materials'] = [{'pbrMetallicRoughness': {'metallicFactor': 0., 'roughnessFactor': 1.}}]
    primitive['material'] = 0

  color = srgb_to_linear(mesh.colors).astype(np.float32)
  turned = trimesh.Trimesh(mesh.vertices @ Y_UP.T, mesh.faces, process=False,
                           vertex_attributes={'color': color})
  return trimesh.exchange.gltf.export_glb(trimesh.Scene(turned), include_normals=True,
                                          tree_postprocessor=finish)


def _with_bytes(vertices, faces, colors):
  rgba = np.concatenate([colors, np.ones_like(colors[:, :1])], -1)
  return trimesh.Trimesh(vertices, faces, vertex_colors=np.round(rgba * 255.).astype(np.uint8),
                         process=False)


def to_obj(mesh: Mesh) -> str:
  """Wavefront with a color behind each vertex; y up, front +z."""
  turned = _with_bytes(mesh.vertices @ Y_UP.T, mesh.faces, mesh.colors)
  return trimesh.exchange.obj.export_obj(turned, include_normals=True)


def to_ply(mesh: Mesh) -> bytes:
  """Binary PLY in the world's frame: z up, front +x."""
  return trimesh.exchange.ply.export_ply(_with_bytes(*mesh))


def points_to_ply(xyz: Points, colors: Points) -> bytes:
  """A colored point cloud as binary PLY in the world's frame."""
  return trimesh.exchange.ply.export_ply(trimesh.PointCloud(xyz, np.round(colors * 255.).astype(
      np.uint8)))


WRITERS = {'glb': to_glb, 'obj': to_obj, 'ply': to_ply}
FORMATS = tuple(WRITERS)


def save(mesh: Mesh, folder: pathlib.Path, *,
         formats: tuple[str, ...] = FORMATS) -> list[pathlib.Path]:
  """Writes mesh.glb, mesh.obj, mesh.ply, or those asked for, into `folder`."""
  paths = []
  for name in formats:
    data = WRITERS[name](mesh)
    paths.append(folder / f'mesh.{name}')
    paths[-1].write_bytes(data.encode() if isinstance(data, str) else data)
  return paths
