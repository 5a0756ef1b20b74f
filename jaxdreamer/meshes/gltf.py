"""glTF 2.0 from a stranger: of a scene its triangles alone, for files.py. ValueError, and whatever
else trimesh raises, for what is none."""
import base64
import io
import json
import pathlib
import struct
import urllib.parse

import numpy as np

from jaxdreamer.weights import safe_files

MOST_BYTES = 2 ** 28                   # of a file
MOST_FACES = 4_000_000
PACKED = ('KHR_draco_mesh_compression', 'EXT_meshopt_compression', 'KHR_meshopt_compression',
          'KHR_mesh_quantization')
UNITS = {np.dtype(np.uint8): 255., np.dtype(np.uint16): 65535.}   # of whole numbers as UVs
# vertices [N 3], faces [F 3], uv [N 2] or None with v upward, normals [N 3] or None
Part = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]


def parts(data: bytes, folder: pathlib.Path, *, binary: bool) -> list[Part]:
  """The triangles of each node of a .gltf, or .glb where `binary`, y up; what no node holds is not
  there. Trimesh turns UVs over in single precision, which loses bits: they travel as attributes
  that it leaves alone."""
  import trimesh
  tree, buffers = _plain(*(_chunks(data) if binary else (json.loads(data), b'')), folder)
  scene = trimesh.load_scene(io.BytesIO(_glb(tree, buffers)), file_type='glb', process=False)
  nodes = [scene.graph[name] for name in scene.graph.nodes_geometry]
  meshes = {name: mesh for name, mesh in scene.geometry.items()
            if isinstance(mesh, trimesh.Trimesh)}
  nodes = [(matrix, meshes[name]) for matrix, name in nodes if name in meshes]
  if sum(len(mesh.faces) for _, mesh in nodes) > MOST_FACES:
    raise ValueError(f'more than {MOST_FACES:,} faces: simplify it')
  return [_placed(matrix, mesh) for matrix, mesh in nodes]


def _placed(matrix, mesh) -> Part:
  """A mesh where its node stands."""
  uv, normals = map(mesh.vertex_attributes.get, ('_UV', '_NORMAL'))
  if uv is not None:
    uv = np.array(uv, float) / UNITS.get(uv.dtype, 1.)
    uv[:, 1] = 1. - uv[:, 1]
  still = np.array_equal(matrix, np.eye(4))
  vertices, faces = np.array(mesh.vertices, float), np.array(mesh.faces, int)
  if not still:
    vertices = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    if normals is not None:
      normals = normals @ np.linalg.inv(matrix[:3, :3])
      normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    faces = faces[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0. else faces
  return vertices, faces, uv, None if normals is None else np.array(normals, float)


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
  buffers = _buffers(tree.get('buffers', []), binary, folder)
  starts = np.cumsum([0, *map(len, buffers)])
  views = [view | {'buffer': 0, 'byteOffset': view.get('byteOffset', 0) + int(
    starts[view['buffer']])} for view in tree.get('bufferViews', [])]
  meshes = [{'primitives': [_bare(one) for one in mesh['primitives'] if one.get('mode', 4) > 3]}
            for mesh in tree.get('meshes', [])]
  used = {index for mesh in meshes for one in mesh['primitives']
          for index in (one.get('indices'), *one['attributes'].values())}
  unused = {'componentType': 5121, 'type': 'SCALAR', 'count': 0}
  accessors = [one if index in used else unused
               for index, one in enumerate(tree.get('accessors', []))]
  _check_counts(accessors, int(starts[-1]))
  kept = ('matrix', 'translation', 'rotation', 'scale', 'children', 'mesh')
  nodes = [{name: node[name] for name in kept if name in node} for node in tree.get('nodes', [])]
  return {'asset': {'version': '2.0'}, 'buffers': [{'byteLength': int(starts[-1])}],
          'bufferViews': views, 'accessors': accessors, 'meshes': meshes, 'nodes': nodes,
          'scene': tree.get('scene', 0), 'scenes': tree.get('scenes', [])}, b''.join(buffers)


def _bare(primitive: dict) -> dict:
  """A primitive without its looks."""
  if primitive.get('mode') == 6:
    raise ValueError('holds fans of triangles: export triangles')
  of = primitive['attributes']
  names = {'POSITION': 'POSITION', '_UV': 'TEXCOORD_0', '_NORMAL': 'NORMAL'}
  return {name: primitive[name] for name in ('indices', 'mode') if name in primitive} | {
    'attributes': {name: of[key] for name, key in names.items() if key in of}}


def _check_counts(accessors: list[dict], size: int) -> None:
  """That they can lie in `size` bytes: others would fill the memory with zeros, or with copies."""
  if any('sparse' in one for one in accessors):
    raise ValueError('holds sparse accessors: export it without')
  if any(one['type'] not in ('SCALAR', 'VEC2', 'VEC3') for one in accessors):
    raise ValueError('its vertices have no three coordinates')
  if sum(abs(one['count']) for one in accessors) > size:
    raise ValueError('its accessors count more than its buffers hold')


def _buffers(listed: list[dict], binary: bytes, folder: pathlib.Path) -> list[bytes]:
  """Of a .glb the first is its `binary`; no more than MOST_BYTES in all."""
  found = []
  for one in listed:
    found.append(_buffer(one['uri'], folder) if 'uri' in one else b'' if found else binary)
    if sum(map(len, found)) > MOST_BYTES:
      raise ValueError(f'its buffers have more than the {MOST_BYTES:,} bytes that are read')
  return found


def _buffer(uri: str, folder: pathlib.Path) -> bytes:
  """A buffer of a .gltf: within it, or a file in its folder."""
  if uri.startswith('data:'):
    return base64.b64decode(uri.partition(',')[2])
  path = (folder / urllib.parse.unquote(uri)).resolve()
  if not path.is_relative_to(folder.resolve()):
    raise ValueError(f'its buffer {uri[:100]!r} is no file beside it')
  with safe_files.regular(path) as file:
    return file.read(MOST_BYTES + 1)


def _glb(tree: dict, binary: bytes) -> bytes:
  text = json.dumps(tree).encode()
  chunks = [(b'JSON', text + b' ' * (-len(text) % 4)),
            (b'BIN\0', binary + b'\0' * (-len(binary) % 4))]
  body = b''.join(struct.pack('<I4s', len(part), name) + part for name, part in chunks)
  return struct.pack('<4sII', b'glTF', 2, 12 + len(body)) + body
