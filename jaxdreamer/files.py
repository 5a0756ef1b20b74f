"""Files and folders that appear whole or not at all."""
import json
import os
import pathlib
import shutil
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


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """The same of a folder, which must not be there before, or be empty: ValueError."""
  path = pathlib.Path(path)
  if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
    raise ValueError(f'{path} is there already: give the path of a folder that is new, or empty')
  path.parent.mkdir(parents=True, exist_ok=True)
  draft = path.with_name(f'.{path.name}.{os.getpid()}.draft')
  draft.mkdir()
  try:
    yield draft
    for file in draft.rglob('*'):
      if file.is_file():
        with file.open('rb+') as opened:
          os.fsync(opened.fileno())
    os.replace(draft, path)
  finally:
    shutil.rmtree(draft, ignore_errors=True)


def drop_drafts(folder: pathlib.Path) -> None:
  """Removes what `whole` began within a folder, in processes that were killed: for who alone writes
  there."""
  for draft in folder.rglob('.*.draft'):
    if draft.is_file():
      draft.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: dict) -> None:
  """JSON as people read it, in a folder that is made for it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value, indent=1) + '\n', encoding='utf-8')
