"""A file appears whole or not at all, and no draft stays behind."""
import pathlib
import subprocess
import sys

import pytest

from jaxdreamer import files


def test_what_was_written_has_the_name_and_nothing_lies_beside_it(tmp_path):
  for text in ('first', 'second'):
    with files.whole(tmp_path / 'file.txt') as draft:
      assert draft.parent == tmp_path and draft.name != 'file.txt'    # one file system: a rename
      draft.write_text(text)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {'file.txt': text}


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
  (tmp_path / 'file.txt').write_text('whole')
  with pytest.raises(OSError, match='no room'), files.whole(tmp_path / 'file.txt') as draft:
    draft.write_text('ha')
    raise OSError('no room')
  assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {'file.txt': 'whole'}
  with pytest.raises(FileNotFoundError), files.whole(tmp_path / 'none' / 'file.txt') as draft:
    draft.write_text('x')


def test_a_killed_writer_leaves_what_was_there(tmp_path):
  (tmp_path / 'file.txt').write_text('whole')
  code = ('import os, signal; from jaxdreamer import files\n'
          f'with files.whole({str(tmp_path / "file.txt")!r}) as draft:\n'
          '  draft.write_text("ha")\n  os.kill(os.getpid(), signal.SIGKILL)')
  root = pathlib.Path(files.__file__).parents[1]
  assert subprocess.run([sys.executable, '-c', code], cwd=root).returncode == -9
  assert (tmp_path / 'file.txt').read_text() == 'whole'
  begun, = (path for path in tmp_path.iterdir() if path.name != 'file.txt')
  files.drop_drafts(tmp_path)
  assert not begun.exists() and (tmp_path / 'file.txt').read_text() == 'whole'
