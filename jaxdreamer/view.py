"""python -m jaxdreamer.view --workdir=RUN [--port=8080 --host=127.0.0.1]
python -m jaxdreamer.view --workdir=A,B
python -m jaxdreamer.view --workdir=RUN --save=object.html

A page in the browser over a run, while it trains and afterwards: the object from wherever you turn
it to, in color, depth or normals; its mesh, the cameras of the training step, and a slider over
checkpoints, which follows the newest. Two runs stand side by side under one camera. --save writes
the mesh as one page that needs no server, and ends. The workdir is only read. It takes viser:
pip install 'jaxdreamer[viewer]'.
"""
import importlib.util
import os
import pathlib
import signal
import socket
import threading
from functools import partial

from absl import flags

from jaxdreamer import cli, workdirs
from jaxdreamer.options import place
from jaxdreamer.viewing import follow, page
from jaxdreamer.viewing.viewer import POLL, Viewer


def main() -> int:
  """Checks the options and serves the page until it is told to stop; the exit status."""
  options, stop = flags.FLAGS, stopping()
  if importlib.util.find_spec('viser') is None:
    cli.die("the viewer needs viser: pip install 'jaxdreamer[viewer]'")
  folders = tuple(place(path) for path in options.workdir)
  if len(folders) not in (1, 2):
    cli.die(f'--workdir={",".join(options.workdir)}: takes one run, or two', status=cli.MISUSED)
  for folder in folders:
    workdirs.read_options(folder)                # ValueError where there is no run
  if not options.save:
    check_free(options.host, options.port)
  be_humble()
  cli.compile_cache()
  if not all(wait_for(folder, stop) for folder in folders):
    return 0
  opened = partial(follow.opened, **cli.moved())
  if options.save:
    return save(place(options.save), [opened(folder) for folder in folders])
  with Viewer(folders, open=opened, size=options.size, host=options.host,
              port=options.port) as viewer:
    print(f'http://{viewer.server.get_host()}:{viewer.server.get_port()}', flush=True)
    stop.wait()
  return 0


def stopping() -> threading.Event:
  """An event that the first SIGINT or SIGTERM sets; a second one acts at once."""
  stop, numbers = threading.Event(), (signal.SIGINT, signal.SIGTERM)

  def handler(*_):
    stop.set()
    for number in numbers:
      signal.signal(number, signal.SIG_DFL)
  for number in numbers:
    signal.signal(number, handler)
  return stop


def check_free(host: str, port: int) -> None:
  """Leaves with one line where nothing can listen at this address: viser would take another."""
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)        # as asyncio's servers do
      probe.bind(address)
  except OSError as error:
    cli.die(f'--host={host} --port={port}: cannot be listened at ({error.strerror}); give another '
            '--port, or 0 for any that is free')


def be_humble() -> None:
  """The run that trains beside it comes first, with the processor and with a GPU's memory."""
  os.nice(5)
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')


def wait_for(workdir: pathlib.Path, stop: threading.Event) -> bool:
  """Waits for the first checkpoint of a workdir; False where it is told to stop before."""
  if not follow.steps_in(workdir):
    print(f'{workdir} has no checkpoint yet: waiting for the first one', flush=True)
  while not follow.steps_in(workdir):
    if stop.wait(POLL):
      return False
  return True


def save(path: pathlib.Path, runs: list[follow.Run]) -> int:
  """Writes the newest meshes of the runs as one page; the exit status."""
  objects = [follow.state_at(run, follow.steps_in(run.folder)[-1]).object('') for run in runs]
  text = page.saved(objects, [page.glb_of(*each) for each in
                              zip(objects, (run.resolution for run in runs))])
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding='utf-8')
  print(path)
  return 0


if __name__ == '__main__':
  flags.DEFINE_list('workdir', None, 'A run, or two separated by a comma.', required=True)
  cli.moved_flags()
  flags.DEFINE_integer('port', 8080, 'Where the page is served; 0: any port that is free.',
                       lower_bound=0, upper_bound=65535)
  flags.DEFINE_string('host', '127.0.0.1', 'And at which address: 0.0.0.0 lets other machines '
                      'in.')
  flags.DEFINE_integer('size', 256, "Pixels of a resting picture's longer side; a moving one has a "
                       'quarter.', lower_bound=16, upper_bound=2048)
  flags.DEFINE_string('save', '', 'Write this HTML page with the mesh instead, and end.')
  cli.run(main)
