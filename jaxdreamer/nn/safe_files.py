"""Files from strangers: opened, parsed, hashed and kept in their folder, so that none can hang, run code or fill memory.

FileNotFoundError where nothing is, ValueError for all else, in one line that names the file and the cause.
"""
import hashlib
import json
import os
import pathlib
from typing import BinaryIO, Iterable

MAX_JSON = 4 * 2 ** 20                   # bytes
DEEPEST = 100                      # levels of JSON; published files have ten
LISTED = 100                             # names in an error
PICKLES = ('.bin', '.ckpt', '.pt', '.pth', '.pkl')
CONVERT = ('python -c "import sys, torch; from safetensors.torch import save_file; '
           "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = d.get('state_dict', d); "
           'save_file({k: v.clone().contiguous() for k, v in d.items()}, sys.argv[2])" IN.bin OUT.safetensors')


def pickle_refusal(path: str | os.PathLike) -> str:
  """Why a pickle is not opened, and what to do."""
  return (f'{os.fspath(path)} is no valid safetensors file but a pickle, or named like one; pickles can run code when '
          f'opened and are refused. Convert one you trust by: {CONVERT}')


def regular(path: pathlib.Path) -> BinaryIO:
  """The open file. A pipe or a device, which could block or never end, is refused."""
  if not path.is_file():
    if path.exists():
      raise ValueError(f'{path} is a folder or a device where a file is wanted')
    cause = 'the symlink there leads nowhere' if path.is_symlink() else 'nothing is there'
    raise FileNotFoundError(f'no file at {path}: download the file there, or give the path of yours ({cause})')
  return path.open('rb', buffering=0)


def check_depth(value):
  """ValueError for JSON deeper than DEEPEST: how deep Python itself goes differs from version to version."""
  level = [value]
  for _ in range(DEEPEST):
    level = [inner for outer in level if isinstance(outer, dict | list)
             for inner in (outer.values() if isinstance(outer, dict) else outer)]
  if level:
    raise ValueError('nested too deep')


def parsed(path: pathlib.Path, text: bytes) -> dict:
  """A JSON object. Repeated names, NaN, and nesting deeper than DEEPEST are refused."""
  def unique(pairs):
    table = dict(pairs)
    if len(table) != len(pairs):
      raise ValueError('a name is repeated')
    return table

  def constant(name):
    raise ValueError(f'{name} is no JSON')

  try:
    value = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=constant)
    check_depth(value)
  except (ValueError, RecursionError) as error:
    cause = 'nested too deep' if isinstance(error, RecursionError) else ' '.join(str(error).split())[:200]
    raise ValueError(f'{path} holds no valid JSON ({cause}): download it again') from None
  if not isinstance(value, dict):
    raise ValueError(f'{path} holds no JSON object: download it again')
  return value


def read_json(path: str | os.PathLike) -> dict:
  """The object in a JSON file of at most MAX_JSON bytes."""
  path = pathlib.Path(path)
  with regular(path) as file:
    text = file.read(MAX_JSON + 1)
  if len(text) > MAX_JSON:
    raise ValueError(f'{path} is larger than the {MAX_JSON} bytes of JSON that are read')
  return parsed(path, text)


def contained(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  """`path`, if what it leads to lies in `folder`, or in the store of a Hugging Face cache whose snapshot `folder` is."""
  home, target = (pathlib.Path(os.path.realpath(p)) for p in (folder, path))
  homes = [home, *(p.parent.parent / 'blobs' for p in (home, *home.parents) if p.parent.name == 'snapshots')]
  if not any(target.is_relative_to(h) for h in homes):
    raise ValueError(f'{path} leads out of the folder {folder}, to {target}: put a copy of the file in its place')
  return path


def sha256_of(path: str | os.PathLike) -> str:
  """The file's SHA-256, 64 hexadecimal digits."""
  with regular(pathlib.Path(path)) as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def check_hash(path: str | os.PathLike, sha256: str) -> None:
  """ValueError unless the file's SHA-256 is the given one."""
  found = sha256_of(path)
  if found != sha256.strip().lower():
    raise ValueError(f'{os.fspath(path)} has sha256 {found}, not {sha256}: it is damaged or another file')


def listed(names: Iterable[str]) -> str:
  """A list as text, cut where a hostile or foreign file would fill the screen."""
  names = list(names)
  return f'{names[:LISTED]}' + (f' and {len(names) - LISTED} more' if len(names) > LISTED else '')
