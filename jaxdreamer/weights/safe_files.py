"""Files from strangers: opened, parsed and hashed, so that none can hang, run code or fill memory.

FileNotFoundError where nothing is, ValueError for all else, in one line that names the file and the
cause.
"""
import functools
import hashlib
import json
import os
import pathlib
import re
from typing import BinaryIO, Iterable, Mapping

MAX_JSON = 4 * 2 ** 20                   # bytes
HEAD = 1024                              # bytes of a file, by which one may see what it is
DEEPEST = 100                            # levels of JSON; published files have ten
LISTED, LETTERS = 100, 200               # names in an error, and letters of each
SAFETENSORS = 'give the .safetensors files of the model'
KINDS = ((b'GGUF', 'a GGUF file, of quantized weights', SAFETENSORS),
         (b'\x1f\x8b', 'a gzip archive', 'unpack it'),
         (b'7z\xbc\xaf', 'a 7z archive', 'unpack it'), (b'Rar!', 'a RAR archive', 'unpack it'),
         (b'\x89HDF', 'an HDF5 file', SAFETENSORS), (b'\x89PNG', 'a picture', SAFETENSORS),
         (b'\xff\xd8\xff', 'a picture', SAFETENSORS))
PICKLES = ('.bin', '.ckpt', '.pt', '.pth', '.pkl')
CONVERT = ('python -c "import sys, torch; from safetensors.torch import save_file; '
           "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = "
           "d.get('state_dict', d); "
           'save_file({k: v.clone().contiguous() for k, v in d.items()}, sys.argv[2])" IN.bin '
           'OUT.safetensors')


def pickle_refusal(path: str | os.PathLike) -> str:
  """Why a pickle is not opened, and what to do."""
  return (f'{os.fspath(path)} is no valid safetensors file but a pickle, or named like one; '
          'pickles can run code when '
          f'opened and are refused. Convert one you trust by: {CONVERT}; or a whole Stable '
          'Diffusion, trusted or not, by python -m jaxdreamer.convert --from=IN --to=FOLDER')


def regular(path: pathlib.Path) -> BinaryIO:
  """The open file. A pipe or a device, which could block or never end, is refused."""
  if not path.is_file():
    if path.exists():
      raise ValueError(f'{path} is a folder or a device where a file is wanted')
    cause = 'the symlink there leads nowhere' if path.is_symlink() else 'nothing is there'
    raise FileNotFoundError(f'no file at {path}: download the file there, or give the path of '
                            f'yours ({cause})')
  return path.open('rb', buffering=0)


def check_depth(value):
  """ValueError for JSON deeper than DEEPEST: how deep Python itself goes differs from version to
  version."""
  level = [value]
  for _ in range(DEEPEST):
    level = [inner for outer in level if isinstance(outer, dict | list)
             for inner in (outer.values() if isinstance(outer, dict) else outer)]
  if level:
    raise ValueError('nested too deep')


def read_json(path: str | os.PathLike, *, limit: int = MAX_JSON) -> dict:
  """The object in a JSON file of at most `limit` bytes, as Python's json and Windows write it: with
  NaN, infinities and a byte-order mark. Repeated names and nesting deeper than DEEPEST are
  refused."""
  path = pathlib.Path(path)
  with regular(path) as file:
    text = file.read(limit + 1)
  if len(text) > limit:
    raise ValueError(f'{path} is larger than the {limit} bytes of JSON that are read')

  def unique(pairs):
    table = dict(pairs)
    if len(table) != len(pairs):
      raise ValueError('a name is repeated')
    return table

  try:
    value = json.loads(text.decode('utf-8-sig'), object_pairs_hook=unique)
    check_depth(value)
  except (ValueError, RecursionError) as error:
    if found := what_is(text[:HEAD]):
      raise ValueError(f'{path} {found}') from None
    cause = 'nested too deep' if isinstance(error, RecursionError) else one_line(error)
    words = '' if text.lstrip()[:1] in (b'{', b'[') else words_of(text[:HEAD])
    cause += f'; it begins with the text {words!r}' if words else ''
    raise ValueError(f'{path} holds no valid JSON ({cause}): download it again') from None
  if not isinstance(value, dict):
    raise ValueError(f'{path} holds no JSON object: download it again')
  return value


def one_line(error: Exception) -> str:
  """What an error says, in one line that is not long."""
  return ' '.join(str(error).split())[:200]


def what_is(head: bytes) -> str:
  """What a file is that begins so, and what to do, where it is something else than one wants: to
  follow its path. '' where nothing tells."""
  if not head.strip(b'\0'):
    return 'is empty: download it again'
  if head.startswith(b'version https://git-lfs'):
    size = re.search(rb'^size (\d+)', head, re.MULTILINE)
    return ('is a git-lfs pointer to the file, not the file' + (f' of {int(size[1]):,} bytes'
                                                                if size else '')
            + ": run 'git lfs pull' in the clone, or download the file itself")
  text = head.decode('utf-8-sig', 'replace').lstrip()
  if re.match(r'<(!doctype|html|head|body|\?xml|!--)', text, re.IGNORECASE):
    title = re.search(r'<title[^>]*>(.*?)</title', text, re.IGNORECASE | re.DOTALL)
    return ('is a web page' + (f' ({" ".join(title[1].split())[:80]!r})' if title else '')
            + ', not the file: the download led to a page that asks or refuses; log in or accept '
            'the license there, and take the '
            'link to the file itself')
  for mark, kind, remedy in KINDS:
    if head.startswith(mark):
      return f'is {kind}: {remedy}'
  return ''


def words_of(head: bytes) -> str:
  """The first line of a file that is a text, as of a server that refused; '' of any other."""
  line = (head.splitlines() or [b''])[0][:60]
  return line.decode() if len(line) >= 8 and all(32 <= byte < 127 for byte in line) else ''


def sha256_of(path: str | os.PathLike) -> str:
  """The file's SHA-256, 64 hexadecimal digits."""
  with regular(pathlib.Path(path)) as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def known_sha256(path: str | os.PathLike) -> str:
  """`sha256_of`, computed once for a file that does not change meanwhile: to know a file again, not
  to vouch for it."""
  state = os.stat(path)
  return _sha256_of_state(os.path.realpath(path), state.st_dev, state.st_ino, state.st_size,
                          state.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256_of_state(path: str, *state: int) -> str:
  return sha256_of(path)


def check_hash(path: str | os.PathLike, sha256: str) -> None:
  """ValueError unless the file's SHA-256 is the given one."""
  found = sha256_of(path)
  if found != sha256.strip().lower():
    raise ValueError(f'{os.fspath(path)} has sha256 {found}, not {sha256}: it is damaged or '
                     'another file')


def check_hashes(owner: str | os.PathLike, files: Mapping[str, pathlib.Path],
                 sha256: Mapping[str, str] | None) -> None:
  """ValueError unless {name: hash}, where given, knows each of the files by name and is right."""
  if sha256 is None:
    return
  if absent := [name for name in files if name not in sha256]:
    raise ValueError(f'{os.fspath(owner)}: sha256 says nothing of {listed(absent)}')
  for name, file in files.items():
    check_hash(file, sha256[name])


def listed(names: Iterable[str]) -> str:
  """A list as text, cut where a hostile or foreign file would fill the screen."""
  names = [name[:LETTERS] for name in names]
  return f'{names[:LISTED]}' + (f' and {len(names) - LISTED} more' if len(names) > LISTED else '')
