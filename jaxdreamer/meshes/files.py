"""A mesh file of anyone's, as arrays: GLB, glTF, OBJ, PLY, STL or OFF.

It comes from a stranger: its size is asked before it is read, no picture or material of it is
opened, nor any file but the buffers that stand beside a .gltf. FileNotFoundError where nothing is,
ValueError for all else, in one line that names the option, the file and the cause.

    file = read('chair.glb', option='config.scene.mesh.path')
    vertices, faces = weld(file)
"""
import base64
import io
import json
import os
import pathlib
import struct
import urllib.parse
from typing import NamedTuple

import numpy as np
import trimesh
from jaxtyping import Float, Int
from trimesh.exchange import obj, off, ply, stl

from jaxdreamer.weights import safe_files

MOST_BYTES = 2 ** 28
MOST_FACES = 4_000_000
LOADERS = {'.obj': obj.load_obj, '.ply': ply.load_ply, '.stl': stl.load_stl, '.off': off.load_off}
KINDS = ('.glb', '.gltf', *LOADERS)
Y_UP = ('.glb', '.gltf', '.obj')                   # others are z up, as we are
WORLD = np.array([[0., 0., 1.], [1., 0., 0.], [0., 1., 0.]])   # rows: our x, y, z of theirs
PACKED = ('KHR_draco_mesh_compression', 'EXT_meshopt_compression', 'KHR_meshopt_compression',
          'KHR_mesh_quantization')
UNITS = {np.dtype(np.uint8): 255., np.dtype(np.uint16): 65535.}   # of whole numbers in glTF


class MeshFile(NamedTuple):
  """The meshes of a file as one, in the world's frame (z up, front +x), at its own size and place.
  Where its UVs or normals part, so do its vertices."""
  vertices: Float[np.ndarray, 'N 3']
  faces: Int[np.ndarray, 'F 3']
  uv: Float[np.ndarray, 'N 2'] | None = None         # v upward
  normals: Float[np.ndarray, 'N 3'] | None = None    # unit, of the vertices


def read(path: str | os.PathLike, *, option: str) -> MeshFile:
  """The mesh in a file; `option` is what gave its name. A scene of several is one mesh. Faces of
  more than three corners become triangles. UVs and normals are kept where all of it has them."""
  path = pathlib.Path(path)
  at, kind = f'{option}={os.fspath(path)!r}', path.suffix.lower()
  if kind not in KINDS:
    raise ValueError(f'{at}: takes a mesh file, {", ".join(KINDS)}')
  try:
    with safe_files.regular(path) as file:
      size = os.fstat(file.fileno()).st_size
      if size > MOST_BYTES:
        raise ValueError(f'{size:,} bytes, and at most {MOST_BYTES:,} are read: simplify it, or '
                         'leave its pictures out')
      data = file.read(size)
    if told := safe_files.what_is(data[:safe_files.HEAD]):
      raise ValueError(f'it {told}')
    return _checked(_joined(_parts(data, kind, path.parent)))
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{at}: {error}') from None
  except Exception as error:                     # of a parser: whatever it met
    cause = safe_files.one_line(error) or type(error).__name__
    known = isinstance(error, ValueError)
    raise ValueError(f'{at}: {cause if known else f"no valid {kind} file ({cause})"}') from None


def weld(file: MeshFile) -> tuple[Float[np.ndarray, 'n 3'], Int[np.ndarray, 'f 3']]:
  """Its surface: vertices of one place are one, and faces that have no area are gone."""
  vertices, index = np.unique(file.vertices, axis=0, return_inverse=True)
  faces = index.reshape(-1)[file.faces]
  faces = faces[trimesh.triangles.area(vertices[faces]) > 0.]
  used, faces = np.unique(faces, return_inverse=True)
  return vertices[used], faces.reshape(-1, 3)


def ball(vertices: Float[np.ndarray, 'N 3']) -> tuple[Float[np.ndarray, '3'], float]:
  """The middle of their box, and how far from it they reach."""
  center = .5 * (vertices.min(0) + vertices.max(0))
  return center, float(np.linalg.norm(vertices - center, axis=1).max())


def _parts(data, kind, folder) -> list[MeshFile]:
  """The meshes of a file, each at its place."""
  if kind in LOADERS:
    found = LOADERS[kind](io.BytesIO(data), file_type=kind[1:], resolver=None, skip_materials=True,
                          maintain_order=True)
    parts = [_part(part) for part in found.get('geometry', {'': found}).values()]
    if kind == '.stl':                           # each face has vertices of its own
      parts = [MeshFile(*weld(part)) for part in parts]
  else:
    parts = _of_gltf(data, kind, folder)
  turn = WORLD.T if kind in Y_UP else np.eye(3)
  return [part._replace(vertices=part.vertices @ turn,
                        normals=None if part.normals is None else part.normals @ turn)
          for part in parts]


def _part(loaded: dict) -> MeshFile:
  """What a loader of trimesh makes of one mesh."""
  vertices, faces = loaded.get('vertices', np.zeros((0, 3))), loaded.get('faces', np.zeros((0, 3)))
  return MeshFile(np.array(vertices, float), np.array(trimesh.geometry.triangulate_quads(faces)
                                                      if len(faces) else faces, int).reshape(-1, 3),
                  getattr(loaded.get('visual'), 'uv', None), loaded.get('vertex_normals'))


def _of_gltf(data, kind, folder) -> list[MeshFile]:
  """The meshes of a glTF's nodes. Trimesh reads UVs in single precision and turns them over, which
  loses bits: they travel as attributes that it leaves alone."""
  tree, buffers = _plain(*_chunks(data) if kind == '.glb' else (json.loads(data), b''), folder)
  scene = trimesh.load_scene(io.BytesIO(_glb(tree, buffers)), file_type='glb', process=False)
  nodes = [scene.graph[name] for name in scene.graph.nodes_geometry]
  meshes = {name: mesh for name, mesh in scene.geometry.items()
            if isinstance(mesh, trimesh.Trimesh)}
  nodes = [(matrix, meshes[name]) for matrix, name in nodes if name in meshes]
  if sum(len(mesh.faces) for _, mesh in nodes) > MOST_FACES:
    raise ValueError(f'more than {MOST_FACES:,} faces: simplify it')
  return [_placed(matrix, mesh) for matrix, mesh in nodes]


def _placed(matrix, mesh) -> MeshFile:
  """A mesh where its node stands."""
  uv, normals = map(mesh.vertex_attributes.get, ('_UV', '_NORMAL'))
  if uv is not None:
    uv = np.array(uv, float) / UNITS.get(uv.dtype, 1.)
    uv[:, 1] = 1. - uv[:, 1]
  still = np.array_equal(matrix, np.eye(4))
  vertices, faces = np.array(mesh.vertices, float), np.array(mesh.faces, int)
  if not still:
    vertices = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    normals = normals if normals is None else normals @ np.linalg.inv(matrix[:3, :3])
    faces = faces[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0. else faces
  return MeshFile(vertices, faces, uv, None if normals is None else np.array(normals, float))


def _chunks(data: bytes) -> tuple[dict, bytes]:
  """The JSON and the binary of a GLB."""
  magic, version, _ = struct.unpack_from('<4sII', data)
  if (magic, version) != (b'glTF', 2):
    raise ValueError('no GLB of glTF 2.0: it does not begin as one')
  found, at = {}, 12
  while at + 8 <= len(data):
    size, name = struct.unpack_from('<I4s', data, at)
    found.setdefault(name, data[at + 8:at + 8 + size])
    at += 8 + size
  return json.loads(found[b'JSON']), found.get(b'BIN\0', b'')


def _plain(tree: dict, binary: bytes, folder: pathlib.Path) -> tuple[dict, bytes]:
  """A glTF of triangles alone, in one buffer."""
  if packed := [name for name in PACKED if name in tree.get('extensionsRequired', ())]:
    raise ValueError(f'needs {", ".join(packed)}: export it without compression')
  buffers = [_buffer(part['uri'], folder) if 'uri' in part else binary
             for part in tree.get('buffers', [])]
  starts = np.cumsum([0, *map(len, buffers)])
  views = [view | {'buffer': 0, 'byteOffset': view.get('byteOffset', 0) + int(
    starts[view['buffer']])} for view in tree.get('bufferViews', [])]
  accessors = tree.get('accessors', [])
  if sum(one['count'] for one in accessors) > max(starts[-1], 1):
    raise ValueError('its accessors count more than its buffers hold')
  def plain(primitive):
    of = primitive['attributes']
    names = {'POSITION': 'POSITION', '_UV': 'TEXCOORD_0', '_NORMAL': 'NORMAL'}
    return {name: primitive[name] for name in ('indices', 'mode') if name in primitive} | {
      'attributes': {name: of[key] for name, key in names.items() if key in of}}
  meshes = [{'primitives': [plain(one) for one in mesh['primitives'] if one.get('mode', 4) in (
    4, 5)]} for mesh in tree.get('meshes', [])]
  kept = ('matrix', 'translation', 'rotation', 'scale', 'children', 'mesh')
  nodes = [{name: node[name] for name in kept if name in node} for node in tree.get('nodes', [])]
  return {'asset': {'version': '2.0'}, 'buffers': [{'byteLength': int(starts[-1])}],
          'bufferViews': views, 'accessors': accessors, 'meshes': meshes, 'nodes': nodes,
          'scene': tree.get('scene', 0), 'scenes': tree.get('scenes', [])}, b''.join(buffers)


def _buffer(uri: str, folder: pathlib.Path) -> bytes:
  """A buffer of a .gltf: within it, or a file in its folder."""
  if uri.startswith('data:'):
    return base64.b64decode(uri.partition(',')[2])
  path = (folder / urllib.parse.unquote(uri)).resolve()
  if not path.is_relative_to(folder.resolve()):
    raise ValueError(f'its buffer {uri[:100]!r} is no file beside it')
  with safe_files.regular(path) as file:
    data = file.read(MOST_BYTES + 1)
  if len(data) > MOST_BYTES:
    raise ValueError(f'its buffer {uri[:100]!r} has more than the {MOST_BYTES:,} bytes that are '
                     'read')
  return data


def _glb(tree: dict, binary: bytes) -> bytes:
  text = json.dumps(tree).encode()
  chunks = [(b'JSON', text + b' ' * (-len(text) % 4)),
            (b'BIN\0', binary + b'\0' * (-len(binary) % 4))]
  body = b''.join(struct.pack('<I4s', len(part), name) + part for name, part in chunks)
  return struct.pack('<4sII', b'glTF', 2, 12 + len(body)) + body


def _joined(parts: list[MeshFile]) -> MeshFile:
  """One mesh of several; what some have not, none has."""
  parts = [part for part in parts if len(part.faces)]
  if not parts:
    raise ValueError('it has no faces')
  starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
  def all_of(values):
    whole = all(v is not None and len(v) == len(p.vertices) for v, p in zip(values, parts))
    return np.concatenate([np.asarray(v, float) for v in values]) if whole else None
  return MeshFile(all_of([part.vertices for part in parts]),
                  np.concatenate([part.faces + start for part, start in zip(parts, starts)]),
                  all_of([part.uv for part in parts]), all_of([part.normals for part in parts]))


def _checked(file: MeshFile) -> MeshFile:
  """A mesh that can be drawn."""
  if len(file.faces) > MOST_FACES:
    raise ValueError(f'more than {MOST_FACES:,} faces: simplify it')
  if not np.isfinite(file.vertices).all():
    raise ValueError('some of its vertices are not finite')
  if file.faces.min() < 0 or file.faces.max() >= len(file.vertices):
    raise ValueError('its faces name vertices that it has not')
  if not len(weld(file)[1]):
    raise ValueError('none of its faces has an area')
  return file
