"""Files that appear whole or not at all."""
import os
import pathlib
from contextlib import contextmanager
from typing import Iterator


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a draft beside `path` to write; after the block it lies on the disk and has that name.
  Where the block fails, `path` stays as it was and the draft goes.

      with files.whole(folder / 'config.json') as draft:
        draft.write_text(text)
  """
  path = pathlib.Path(path)
  draft = path.with_name(f'.{path.name}.{os.getpid()}.draft')  # of this process: others may write
  try:
    yield draft
    with draft.open('rb+') as file:
      os.fsync(file.fileno())
    os.replace(draft, path)
  finally:
    draft.unlink(missing_ok=True)
