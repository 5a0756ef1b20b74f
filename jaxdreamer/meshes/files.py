"""A mesh file of anyone's, as arrays: GLB, glTF, OBJ, PLY, STL or OFF.

It comes from a stranger: its size is asked before it is read, no picture or material of it is
opened, nor any file but the buffers that stand beside a .gltf. FileNotFoundError where nothing is,
ValueError for all else, in one line that names the option, the file and the cause.

    file = read('chair.glb', option='config.scene.mesh.path')
    vertices, faces = weld(file)

A run keeps its mesh in its workdir: `save` writes all that was read, and `read` takes it back.
"""
import functools
import hashlib
import io
import os
import pathlib
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from jaxtyping import Float, Int

from jaxdreamer.meshes import gltf
from jaxdreamer.meshes.gltf import MOST_BYTES, MOST_FACES
from jaxdreamer.meshes.signed_distance import area
from jaxdreamer.weights import safe_files

LOADED = ('.obj', '.ply', '.stl', '.off')          # by trimesh, which is imported where it reads
OWN = '.safetensors'                               # of `save`
KINDS = ('.glb', '.gltf', *LOADED)
Y_UP = ('.glb', '.gltf', '.obj')                   # others are z up, as we are
WORLD = np.array([[0., 0., 1.], [1., 0., 0.], [0., 1., 0.]])   # rows: our x, y, z of theirs


class MeshFile(NamedTuple):
  """The meshes of a file as one, in the world's frame (z up, front +x), at its own size and place.
  Where its UVs or normals part, so do its vertices."""
  vertices: Float[np.ndarray, 'N 3']
  faces: Int[np.ndarray, 'F 3']
  uv: Float[np.ndarray, 'N 2'] | None = None         # v upward
  normals: Float[np.ndarray, 'N 3'] | None = None    # unit, of the vertices
  __hash__ = object.__hash__                         # what is made of it can be kept


class Given(NamedTuple):
  """A mesh of the user's own, which a scene colors: it stands at (vertices - center) * scale."""
  file: MeshFile
  center: Float[np.ndarray, '3']
  scale: float

  def placed(self, vertices: Float[np.ndarray, 'N 3']) -> Float[np.ndarray, 'N 3']:
    """Points of the file where the scene has them."""
    return (vertices - self.center) * self.scale


def read(path: str | os.PathLike, *, option: str) -> MeshFile:
  """The mesh in a file; `option` is what gave its name. A scene of several is one mesh. Faces of
  more than three corners become triangles. UVs and normals are kept where all of it has them."""
  at, path = f'{option}={os.fspath(path)!r}', pathlib.Path(path)
  kind = path.suffix.lower()
  if kind not in (*KINDS, OWN):
    raise ValueError(f'{at}: takes a mesh file, {", ".join(KINDS)}')
  try:
    state = os.stat(path)
    return _read(path, kind, state.st_ino, state.st_size, state.st_mtime_ns)
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{at}: no file is there' if error.filename else
                            f'{at}: {error}') from None
  except Exception as error:                     # of a parser: whatever it met
    cause = safe_files.one_line(error) or type(error).__name__
    known = isinstance(error, ValueError)
    raise ValueError(f'{at}: {cause if known else f"no valid {kind} file ({cause})"}') from None


@functools.lru_cache(maxsize=2)        # a run asks several times for the same
def _read(path: pathlib.Path, kind: str, *state: int) -> MeshFile:
  with safe_files.regular(path) as file:
    size = os.fstat(file.fileno()).st_size
    if size > MOST_BYTES:
      raise ValueError(f'{size:,} bytes, and at most {MOST_BYTES:,} are read: simplify it, or '
                       'leave its pictures out')
    data = file.read(size)
  if told := safe_files.what_is(data[:safe_files.HEAD]):
    raise ValueError(f'it {told.replace(safe_files.SAFETENSORS, "give a mesh")}')
  parts = [MeshFile(**safetensors.numpy.load(data))] if kind == OWN else _parts(
    data, kind, path.parent)
  return _checked(_joined(parts))


def save(path: pathlib.Path, file: MeshFile) -> None:
  """All of it, exactly."""
  arrays = {name: np.ascontiguousarray(value) for name, value in file._asdict().items()
            if value is not None}
  path.write_bytes(safetensors.numpy.save(arrays))


def mark(file: MeshFile) -> str:
  """The SHA-256 of what was read: of one mesh the same, whatever file holds it."""
  digest = hashlib.sha256()
  for name, value in file._asdict().items():
    if value is not None:
      digest.update(f'{name} {value.shape}'.encode() + np.ascontiguousarray(value).tobytes())
  return f'sha256 {digest.hexdigest()}'


def weld(file: MeshFile) -> tuple[Float[np.ndarray, 'n 3'], Int[np.ndarray, 'f 3']]:
  """Its surface: vertices of one place are one, and faces that have no area are gone."""
  vertices, index = np.unique(file.vertices, axis=0, return_inverse=True)
  faces = index.reshape(-1)[file.faces]
  faces = faces[area(vertices[faces]) > 0.]
  used, faces = np.unique(faces, return_inverse=True)
  return vertices[used], faces.reshape(-1, 3)


def ball(vertices: Float[np.ndarray, 'N 3']) -> tuple[Float[np.ndarray, '3'], float]:
  """The middle of their box, and how far from it they reach."""
  center = .5 * (vertices.min(0) + vertices.max(0))
  return center, float(np.linalg.norm(vertices - center, axis=1).max())


def _parts(data, kind, folder) -> list[MeshFile]:
  """The meshes of a file, each at its place."""
  if kind in LOADED:
    from trimesh.exchange import obj, off, ply, stl
    loaders = {'.obj': obj.load_obj, '.ply': ply.load_ply, '.stl': stl.load_stl,
               '.off': off.load_off}
    found = loaders[kind](io.BytesIO(data), file_type=kind[1:], resolver=None, skip_materials=True,
                          maintain_order=True)
    parts = [_part(part) for part in found.get('geometry', {'': found}).values()]
    if kind == '.stl':                           # each face has vertices of its own
      parts = [MeshFile(*weld(part)) for part in parts]
  else:
    parts = [MeshFile(*part) for part in gltf.parts(data, folder, binary=kind == '.glb')]
  turn = WORLD.T if kind in Y_UP else np.eye(3)
  return [part._replace(vertices=part.vertices @ turn,
                        normals=None if part.normals is None else part.normals @ turn)
          for part in parts]


def _part(loaded: dict) -> MeshFile:
  """What a loader of trimesh makes of one mesh."""
  from trimesh.geometry import triangulate_quads
  vertices, faces = loaded.get('vertices', np.zeros((0, 3))), loaded.get('faces', np.zeros((0, 3)))
  return MeshFile(np.array(vertices, float), np.array(triangulate_quads(faces) if len(faces)
                                                      else faces, int).reshape(-1, 3),
                  getattr(loaded.get('visual'), 'uv', None), loaded.get('vertex_normals'))


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
  if not area(file.vertices[file.faces]).any():
    raise ValueError('none of its faces has an area')
  return file
