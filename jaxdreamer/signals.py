"""The signals that end a run after its call, rather than in the middle of it."""
import os
import signal
import threading
from contextlib import contextmanager

SIGNALS = tuple(name for name in ('SIGTERM', 'SIGINT', 'SIGUSR1') if hasattr(signal, name))


@contextmanager
def stop_signals():
  """Yields a list that receives the name of the first SIGTERM, SIGINT or SIGUSR1. A second one acts
  at once."""
  caught = []

  def handler(number, _):
    caught.append(signal.Signals(number).name)
    for name in SIGNALS:
      signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.write(2, f'\n{caught[0]}: saving after this call; once more stops at once\n'.encode())

  if threading.current_thread() is not threading.main_thread():
    yield caught                                 # only the main thread may handle signals
    return
  before = {name: signal.signal(getattr(signal, name), handler) for name in SIGNALS}
  try:
    yield caught
  finally:
    for name, old in before.items():
      signal.signal(getattr(signal, name), old)
