"""Meshes as bytes: GLB, OBJ, PLY.

GLB and OBJ are written y up, front +z, as glTF demands and readers of OBJ assume; PLY stays in the
world's frame. A texture travels within the GLB and in files beside the OBJ; PLY has the colors of
the vertices. Colors are sRGB, but linear on the vertices of a GLB, again as glTF demands.
"""
import pathlib

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.color import srgb_to_linear
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from jaxdreamer.meshes import files
from jaxdreamer.outputs.surface import Mesh, Points
from jaxdreamer.outputs.video import png, to_bytes

Y_UP = files.WORLD.T                   # rows: glTF's x, y, z are our y, z, x
MATT = {'metallicFactor': 0., 'roughnessFactor': 1.}         # without one glTF means black metal
MTL = '''newmtl surface
Kd 1 1 1
Ks 0 0 0
Pr 1
Pm 0
map_Kd mesh.color.png
'''
BUMP = 'norm mesh.bump.png\n'


def to_glb(mesh: Mesh) -> dict[str, bytes]:
  """glTF 2.0 binary: y up, front +z, a matt material; a texture and its normal map, or else linear
  float colors on the vertices."""
  def finish(tree):
    primitive = tree['meshes'][0]['primitives'][0]
    for name in attributes:
      primitive['attributes'][name] = primitive['attributes'].pop(f'_{name}')
    if mesh.texture is None:
      tree['materials'], primitive['material'] = [{'pbrMetallicRoughness': MATT}], 0

  if mesh.texture is None:
    attributes, looks = {'COLOR_0': srgb_to_linear(mesh.colors).astype(np.float32)}, {}
  else:
    uv, normals, tangents, color, bump = mesh.texture
    attributes, images = {}, {'baseColorTexture': Image.fromarray(to_bytes(color))}
    if bump is not None:
      along = np.concatenate([tangents[:, :3] @ Y_UP.T, tangents[:, 3:]], 1)
      attributes['TANGENT'] = along.astype(np.float32)
      images['normalTexture'] = Image.fromarray(to_bytes(bump))
    looks = {'vertex_normals': turned_up(normals),
             'visual': TextureVisuals(uv, material=PBRMaterial(**images, **MATT))}
  turned = trimesh.Trimesh(mesh.vertices @ Y_UP.T, mesh.faces, process=False,
                           vertex_attributes=attributes, **looks)
  return {'mesh.glb': trimesh.exchange.gltf.export_glb(
    trimesh.Scene(turned), include_normals=has_normals(mesh), tree_postprocessor=finish)}


def turned_up(vectors: Points | None) -> Points | None:
  """Vectors of the world y up."""
  return None if vectors is None else vectors @ Y_UP.T


def has_normals(mesh: Mesh) -> bool:
  """Whether a file holds them: not those of a mesh of the user's own that had none, which by glTF
  is flat then."""
  return mesh.texture is None or mesh.texture.normals is not None


def _with_bytes(vertices, faces, colors):
  rgba = np.concatenate([colors, np.ones_like(colors[:, :1])], -1)
  return trimesh.Trimesh(vertices, faces, vertex_colors=np.round(rgba * 255.).astype(np.uint8),
                         process=False)


def to_obj(mesh: Mesh) -> dict[str, bytes]:
  """Wavefront, y up, front +z: with its material and images, or else with a color behind each
  vertex."""
  if mesh.texture is None:
    turned, more = _with_bytes(mesh.vertices @ Y_UP.T, mesh.faces, mesh.colors), {}
  else:
    t = mesh.texture
    turned = trimesh.Trimesh(
      mesh.vertices @ Y_UP.T, mesh.faces, vertex_normals=turned_up(t.normals), process=False,
      visual=TextureVisuals(t.uv, material=SimpleMaterial(name='surface')))
    more = {'mesh.mtl': MTL.encode(), 'mesh.color.png': png(t.color)}
    if t.bump is not None:
      more |= {'mesh.mtl': (MTL + BUMP).encode(), 'mesh.bump.png': png(t.bump)}
  text = trimesh.exchange.obj.export_obj(turned, include_normals=has_normals(mesh), header=None,
                                         mtl_name='mesh.mtl')
  return {'mesh.obj': text.encode(), **more}


def to_ply(mesh: Mesh) -> dict[str, bytes]:
  """Binary PLY in the world's frame: z up, front +x."""
  return {'mesh.ply': trimesh.exchange.ply.export_ply(_with_bytes(*mesh[:3]))}


def points_to_ply(xyz: Points, colors: Points) -> bytes:
  """A colored point cloud as binary PLY in the world's frame."""
  return trimesh.exchange.ply.export_ply(trimesh.PointCloud(xyz, np.round(colors * 255.).astype(
      np.uint8)))


WRITERS = {'glb': to_glb, 'obj': to_obj, 'ply': to_ply}
FORMATS = tuple(WRITERS)


def save(mesh: Mesh, folder: pathlib.Path, *,
         formats: tuple[str, ...] = FORMATS) -> list[pathlib.Path]:
  """Writes mesh.glb, mesh.obj, mesh.ply, or those asked for, into `folder`; beside mesh.obj what it
  names. Returns the paths of all."""
  paths = []
  for name in formats:
    for file, data in WRITERS[name](mesh).items():
      paths.append(folder / file)
      paths[-1].write_bytes(data)
  return paths
