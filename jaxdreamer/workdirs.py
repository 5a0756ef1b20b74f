"""Workdirs: the folder of a run, and whom it belongs to.

    workdir/config.json            all options, as nested JSON
    workdir/run.json               format of the workdir, fingerprint of the options that decide its
                                   numbers, and what lay in the places that options name: a run goes
                                   on with the same files in another place
    workdir/checkpoints/           what checkpoints.py saves, a folder a step
    workdir/lock                   who writes here; held while that process lives, left behind after

`options` are plain nested dicts; a workdir is a folder of a local or mounted file system.
"""
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import time
import warnings
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, Callable, Mapping

import jax
from flax.traverse_util import flatten_dict

from jaxdreamer import files

FORMAT = 1
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FOLDER = 'checkpoints'
# These may change between two starts of one run: they decide how long, how often and where, not
# what a step computes.
RESUMABLE = ('steps', 'steps_per_call', 'log_every', 'preview_every', 'checkpoint_every', 'keep',
             'mesh', 'max_minutes', 'profile_steps', 'tensorboard', 'guard', 'eval')


def flatten(options: dict) -> dict[str, Any]:
  """{'optim': {'lr': .1}} -> {'optim.lr': .1}."""
  return flatten_dict(options, sep='.')


def defining(options: dict, contents: dict[str, str]) -> dict[str, Any]:
  """What decides the numbers of a run: its options, flat, as JSON gives them back, with their
  `contents` (places.py) in place of those that name places."""
  return flatten(json.loads(json.dumps({k: v for k, v in options.items()
                                        if k not in RESUMABLE}))) | contents


def fingerprint(options: dict, *, contents: Mapping[str, str] = MappingProxyType({})) -> str:
  """Twelve hexadecimal digits of what decides the numbers of a run; see `defining`."""
  return hashlib.sha256(json.dumps(defining(options, dict(contents)),
                                   sort_keys=True).encode()).hexdigest()[:12]


def finished_steps(workdir: pathlib.Path) -> list[int]:
  """Steps that were committed, by the names of their folders."""
  return sorted(int(path.name) for path in (workdir / FOLDER).glob('*') if path.name.isdigit())


def newest_stage(workdir: pathlib.Path) -> pathlib.Path:
  """The folder of the last stage that has a checkpoint, of a run of several (stages.py); of any
  other the workdir itself."""
  try:
    names = json.loads((workdir / 'config.json').read_text()).get('stages', ())
  except (OSError, json.JSONDecodeError):
    return workdir                               # what is wrong with it, its reader says
  begun = [workdir / name for name in names if finished_steps(workdir / name)]
  return begun[-1] if begun else workdir


def read_contents(workdir: pathlib.Path) -> dict[str, str]:
  """What lay in the places that the options of the run name; nothing is known of older runs."""
  return json.loads((workdir / 'run.json').read_text()).get('contents', {})


def read_options(workdir: pathlib.Path) -> dict:
  """The options of the run in `workdir`."""
  try:
    run = json.loads((workdir / 'run.json').read_text())
    options = json.loads((workdir / 'config.json').read_text())
  except FileNotFoundError as error:
    raise ValueError(f'{workdir} holds no run: {error.filename} is missing; give the --workdir of '
                     'a training run') from None
  except (NotADirectoryError, json.JSONDecodeError) as error:
    raise ValueError(f'{workdir} cannot be read as a run ({error}); give another '
                     '--workdir') from None
  if run['format'] != FORMAT:
    raise ValueError(f'{workdir} has format {run["format"]}, this jaxdreamer reads {FORMAT}; use '
                     'the version that wrote it, '
                     'or another --workdir')
  return options


def tuples(value):
  """JSON's lists back as the tuples that config files hold."""
  if isinstance(value, dict):
    return {k: tuples(v) for k, v in value.items()}
  return tuple(tuples(v) for v in value) if isinstance(value, list) else value


def _refuse_other_run(workdir, options, contents, options_there, defaults):
  known = read_contents(workdir)
  there, here = (defining(defaults, {}) | defining(*run)
                 for run in ((options_there, known), (options, contents if known else {})))
  names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)
           or (name in there) != (name in here)]
  if names:
    show = lambda flat, name: repr(flat[name]) if name in flat else 'absent'
    what = '; '.join(f'{name} is {show(there, name)} there, {show(here, name)} here'
                     for name in names[:4])
    more = f'; and {len(names) - 4} more' if len(names) > 4 else ''
    raise ValueError(f'{workdir} holds a run of another config: {what}{more}. Give another '
                     '--workdir, or those options again')


def _write(path, value):
  with files.whole(path) as draft:
    draft.write_text(json.dumps(value, indent=1, sort_keys=True) + '\n')


def is_full(error: BaseException | None) -> bool:
  """Whether an error, or one that it came of, says that a disk has no room left. Those of Orbax say
  it in words alone."""
  while error:
    if getattr(error, 'errno', None) in FULL or any(os.strerror(number) in str(error)
                                                    for number in FULL):
      return True
    error = error.__cause__ or error.__context__
  return False


def seen(workdir: pathlib.Path) -> str:
  """What is in a workdir that was claimed: a process which sees another than its fellows works in
  another folder."""
  try:
    return f'{(workdir / "config.json").read_text()} {finished_steps(workdir)}'
  except OSError as error:
    return str(error)


@contextmanager
def alone(workdir: pathlib.Path, *, new: bool = False):
  """Holds `workdir`, a run's or with `new` one to be made, so that no other process writes there;
  ValueError, one line, names the process that does. The kernel frees the lock when its holder ends,
  however that ends: the file alone locks nothing."""
  if jax.process_index() != 0:
    yield
    return
  if new:
    _make(workdir)
  else:
    read_options(workdir)
  try:
    file = open(workdir / 'lock', 'a+')
  except OSError as error:
    raise ValueError(_unwritable(workdir, error)) from None
  with file:                                     # closing frees it
    _lock(workdir, file)
    files.drop_drafts(workdir)
    try:
      yield
    finally:
      file.truncate(0)


def writing(folder: pathlib.Path, workdir: pathlib.Path) -> AbstractContextManager:
  """`alone` for a command that writes into `folder`, where this lies in the run's own workdir;
  elsewhere nothing is held."""
  return alone(workdir) if folder.resolve().is_relative_to(workdir.resolve()) else nullcontext()


def _lock(workdir, file):
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (BlockingIOError, PermissionError):
    file.seek(0)
    raise ValueError(f'{workdir}: {file.read().strip() or "another process"} is at work here; wait '
                     'for its end, stop it, or give '
                     'another --workdir') from None
  except OSError as error:
    warnings.warn(f'{workdir}: this file system has no locks ({error.strerror}); see that nothing '
                  'else writes here', stacklevel=4)
  try:
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()} (since '
               f'{time.strftime("%Y-%m-%d %H:%M:%S")})\n')
    file.flush()
  except OSError as error:
    raise ValueError(_unwritable(workdir, error)) from None


def _unwritable(workdir, error):
  return (f'cannot write into {workdir} ({error.strerror}: {error.filename or workdir}); give '
          'another --workdir')


def _make(workdir):
  if re.match(r'\w\w+:/', str(workdir)):
    raise ValueError(f'--workdir={workdir} is not a folder; mount the bucket (gcsfuse, rclone) and '
                     'give its path')
  try:
    if jax.process_index() == 0:
      workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(_unwritable(workdir, error)) from None


def claim(workdir: pathlib.Path, options: dict, *,
          contents: Mapping[str, str] = MappingProxyType({}),
          read: Callable[[pathlib.Path], dict] = read_options,
          defaults: Mapping[str, Any] = MappingProxyType({})):
  """Makes `workdir` the home of a run with these options and contents (places.py), or says in one
  line why it cannot be.

  A workdir without any finished checkpoint may be claimed anew; one with checkpoints only by the
  run they belong to, whose options `read` tells; `defaults` are of those that a run does not name.
  The caller holds it by `alone`.
  """
  _make(workdir)
  if finished_steps(workdir):
    _refuse_other_run(workdir, options, dict(contents), read(workdir), dict(defaults))
  if jax.process_index() == 0:
    try:
      (workdir / FOLDER).mkdir(exist_ok=True)
      _write(workdir / 'config.json', options)
      _write(workdir / 'run.json',
             {'format': FORMAT, 'fingerprint': fingerprint(options, contents=contents),
              'contents': dict(contents)})
    except OSError as error:
      raise ValueError(_unwritable(workdir, error)) from None
    free = shutil.disk_usage(workdir).free
    if free < 2 ** 26:
      raise ValueError(f'only {free / 2 ** 20:.0f} MiB are free under {workdir}; make room, or '
                       'give another --workdir')
