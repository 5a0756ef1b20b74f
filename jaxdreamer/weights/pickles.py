"""Checkpoints that torch pickled, as safetensors files: looked at here, as bytes, and read in a
process of its own by torch, weights only (torch_side/unpickle.py).

    file = unpickled([path], folder / 'model.safetensors')
"""
import os
import pathlib
import struct
import zipfile
from typing import Sequence

from jaxdreamer.weights import safe_files, torch_worker

SECONDS, BYTES_A_SECOND = 120., 2e7      # a slow disk's, read and written
LEGACY = b'\x80\x02'                     # how torch.save began before 1.6
BROKEN = (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error, EOFError,
          RuntimeError, MemoryError)


def unpickled(paths: Sequence[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
  """`out`, a safetensors file of the tensors in `paths`, the parts of one model. ValueError or
  FileNotFoundError, one line, names a file that is no checkpoint, is damaged, or holds more than
  weights."""
  for path in paths:
    check(path)
  size = sum(path.stat().st_size for path in paths)
  torch_worker.run('unpickle', out, *paths, seconds=SECONDS + size / BYTES_A_SECOND,
                   extra='convert', needs=('torch',), what=', '.join(map(os.fspath, paths)))
  return out


def check(path: pathlib.Path) -> None:
  """ValueError unless the file is as torch.save leaves it, as far as bytes tell: an archive that is
  whole, not compressed, and no larger inside than outside; or an old pickle."""
  with safe_files.regular(path) as file:
    head = file.read(safe_files.HEAD)
  if head[:2] == LEGACY:
    return
  if head[:4] != b'PK\3\4':
    words = safe_files.words_of(head)
    told = (': it begins as a safetensors file, which is named .safetensors' if head[8:9] == b'{'
            else f': it begins with the text {words!r}' if words else '')
    raise ValueError(f'{path} {safe_files.what_is(head) or "is no checkpoint of torch" + told}')
  try:
    with zipfile.ZipFile(path) as archive:
      entries = archive.infolist()
      whole = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
      if not whole or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError('its archive is compressed, which torch does not do')
      if not any(entry.filename.endswith('/data.pkl') for entry in entries):
        raise ValueError('its archive holds no data.pkl')
      damaged = archive.testzip()
  except BROKEN as error:
    raise ValueError(f'{path} is no whole checkpoint of torch ({safe_files.one_line(error)}): '
                     'download it again') from None
  if damaged:
    raise ValueError(f'{path} is damaged, in {damaged[:99]!r}: download it again')
