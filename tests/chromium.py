"""A headless Chromium under the tests' hand, by its DevTools protocol: no package but websockets,
which viser brings."""
import base64
import io
import json
import os
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
FLAGS = ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--use-angle=swiftshader',
         '--enable-unsafe-swiftshader', '--remote-debugging-port=0', '--hide-scrollbars',
         # nothing outside of this machine is reached
         '--no-first-run', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1')


def until(found, *, seconds, every=.1):
  """What found() returns once that is true."""
  end = time.monotonic() + seconds
  while not (value := found()):
    assert time.monotonic() < end, f'nothing after {seconds} s'
    time.sleep(every)
  return value


class Page:
  """The one page of a browser."""

  def __init__(self, socket):
    self.socket, self.number = socket, 0

  def call(self, method, **params):
    self.number += 1
    self.socket.send(json.dumps({'id': self.number, 'method': method, 'params': params}))
    while (answer := json.loads(self.socket.recv(timeout=60.))).get('id') != self.number:
      pass
    assert 'result' in answer, answer
    return answer['result']

  def picture(self):
    """[H, W, 3] in [0, 1]."""
    shot = base64.b64decode(self.call('Page.captureScreenshot', format='png')['data'])
    return np.asarray(Image.open(io.BytesIO(shot)).convert('RGB')) / 255.

  def drag(self, start, end, *, steps=10):
    """The left button from one point (x, y) to another."""
    mouse = lambda kind, at: self.call('Input.dispatchMouseEvent', type=kind, x=at[0], y=at[1],
                                       button='left', buttons=1, clickCount=1)
    mouse('mousePressed', start)
    for k in range(1, steps + 1):
      mouse('mouseMoved', [a + (b - a) * k / steps for a, b in zip(start, end)])
    mouse('mouseReleased', end)


@contextmanager
def browse(url, folder, *, width=900, height=600):
  """A Page of this size at `url`; skips where there is no browser. `folder` is its own."""
  binary = os.environ.get('CHROME') or next(filter(None, map(shutil.which, NAMES)), None)
  if binary is None:
    pytest.skip(f'no browser here: none of {", ".join(NAMES)}, nor $CHROME')
  from websockets.sync.client import connect
  process = subprocess.Popen([binary, *FLAGS, f'--user-data-dir={folder}',
                              f'--window-size={width},{height}', url],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  try:
    told = folder / 'DevToolsActivePort'
    until(lambda: told.exists() and told.read_text().count('\n'), seconds=60.)
    home = f'http://127.0.0.1:{told.read_text().splitlines()[0]}/json'
    pages = until(lambda: [page for page in json.load(urllib.request.urlopen(home))
                           if page['type'] == 'page'], seconds=30.)
    with connect(pages[0]['webSocketDebuggerUrl'], max_size=None) as socket:
      page = Page(socket)
      page.call('Emulation.setDeviceMetricsOverride', width=width, height=height,
                deviceScaleFactor=1., mobile=False)
      yield page
  finally:
    process.terminate()
    process.wait(30.)
