"""A run in the browser, or two side by side, by viser.

Threads: one reads the workdirs, one makes meshes, one a level renders what desk.py says; viser's
own serve the page. Each visitor has a camera; what is shown is the same for all.
"""
import pathlib
import sys
import threading
from typing import Callable, NamedTuple, Sequence

import jax
import numpy as np

from jaxdreamer import runs, workdirs
from jaxdreamer.objects import Object
from jaxdreamer.outputs.surface import Empty
from jaxdreamer.viewing import follow, lookout, page
from jaxdreamer.viewing.desk import COARSE, FINE, Desk

POLL = 1.                                # seconds between two looks at a workdir
COARSER = 4                              # pixels of a side of a fine picture to one of a coarse
KEPT = 32                                # meshes
HIDDEN, BESIDE, IN_PLACE = 'hidden', 'beside the picture', 'in place of it'
FAR = 100.                               # of what nothing stands before
WHITE = np.ones(3, np.float32)


class Shown(NamedTuple):
  """What is shown of one workdir, and what tells it from all else: folder, step and prompt."""
  key: tuple[pathlib.Path, int, str]
  state: follow.State
  object: Object


class Viewer:
  """The page over `folders`, one workdir or two, each with a checkpoint. `open` maps one to its
  follow.Run; fine pictures have `size` pixels a side. Enter it to serve; leaving it ends all."""

  def __init__(self, folders: Sequence[pathlib.Path], *, open: Callable, size: int, host: str,
               port: int):
    self.folders, self.open, self.sizes = folders, open, {COARSE: -(-size // COARSER), FINE: size}
    self.desk, self.closing, self.extracting = Desk(), False, threading.Lock()
    self.runs, self.shown, self.glbs, self.lines = {}, (), {}, {}
    self.mesh_of, self.mesh_handle, self.arrangement = None, None, HIDDEN
    self.seen_by, self.frusta = None, []
    self.load(None, '')
    self.single, self.follows = len(folders) == 1, True
    self.server = page.serve(host, port, 'jaxdreamer')
    page.look_at(self.server, self.shown[0].object)
    self.add_controls()
    turns = [self.look, *([self.show_mesh] if self.single else [])]
    self.wakes = [threading.Event() for _ in turns]
    self.threads = [*(threading.Thread(target=self.repeat, args=each)
                      for each in zip(turns, self.wakes)),
                    *(threading.Thread(target=self.draw, args=(level,))
                      for level in (COARSE, FINE))]

  def __enter__(self):
    self.server.on_client_connect(self.welcome)
    self.server.on_client_disconnect(lambda client: self.desk.forget(client.client_id))
    for thread in self.threads:
      thread.start()
    return self

  def __exit__(self, *_):
    self.closing = True
    self.wake()
    self.desk.close()
    for thread in self.threads:
      thread.join()
    page.shut(self.server)

  def add_controls(self):
    """What stands in the page's panel."""
    gui, prompts = self.server.gui, self.shown[0].state.run.model.prompts
    self.prompt = gui.add_text('Prompt', prompts[0], disabled=len(prompts) == 1)
    self.kind = gui.add_dropdown('Picture', lookout.KINDS)
    self.kind.on_update(lambda _: self.desk.again())
    first, last, step = follow.spacing(self.steps)
    self.at = gui.add_slider('Step', first, last, step, last,
                             hint='A checkpoint; at the right end, always the newest.')
    self.at.on_update(self.moved)
    waking = [self.prompt]
    if self.single:
      ways = (HIDDEN, *(() if self.shown[0].object.inside else (BESIDE,)), IN_PLACE)
      self.mesh = gui.add_dropdown('Mesh', ways)
      self.training = gui.add_checkbox('Cameras', False, hint='Those of the training step.')
      waking += [self.mesh, self.training]
    for control in waking:
      control.on_update(lambda _: self.wake())
    gui.add_button('Save the mesh as a page').on_click(self.send_page)
    self.said = gui.add_markdown('')

  def moved(self, _):
    """The slider: at its end it follows the run."""
    self.follows = self.at.value >= self.at.max
    self.wake()

  async def welcome(self, client):
    """A new visitor: each move of their camera is a wish."""
    async def ask(camera):
      self.desk.ask(client.client_id, lookout.Lookout(camera.wxyz, camera.position,
                                                      float(camera.fov), float(camera.aspect)))
    client.camera.on_update(ask)
    await ask(client.camera)

  def wake(self):
    """A control asks for the next turn of each thread at once."""
    for event in self.wakes:
      event.set()

  def repeat(self, turn: Callable, event: threading.Event):
    """A turn every POLL seconds, and when woken, until closed."""
    while not self.closing:
      event.clear()
      try:
        turn()
        self.say(turn, '')
      except Exception as error:                 # a checkpoint that went, a prompt refused
        self.say(turn, str(error))
      event.wait(POLL)

  def say(self, about: Callable | str, line: str) -> None:
    """Shows a line under the controls, in place of the one before about the same; '' none."""
    self.lines[about] = line
    text = '\n\n'.join(filter(None, self.lines.values()))
    if self.said.content != text:
      self.said.content = text

  def load(self, wanted: int | None, prompt: str) -> bool:
    """The newest checkpoints up to the step wanted, of each workdir, become what is shown; whether
    that is anything new."""
    stages = [workdirs.newest_stage(folder) for folder in self.folders]
    steps = [workdirs.finished_steps(stage) for stage in stages]
    for stage, some in zip(stages, steps):
      if not some:                               # it has been taken away
        raise runs.none_in(stage)
    keys = [(stage, follow.chosen(some, wanted), prompt) for stage, some in zip(stages, steps)]
    self.steps = sorted({step for some in steps for step in some})
    if keys == [each.key for each in self.shown]:
      return False
    shown = []
    for folder, key in zip(self.folders, keys):
      if folder not in self.runs or self.runs[folder].folder != key[0]:
        self.runs[folder] = self.open(folder)
      state = follow.state_at(self.runs[folder], key[1])
      shown.append(Shown(key, state, state.object(prompt)))
    self.shown = tuple(shown)
    return True

  def look(self):
    """One look at the workdirs and the controls."""
    if self.load(None if self.follows else self.at.value,
                 '' if self.prompt.disabled else self.prompt.value):
      self.desk.again()
    first, last, step = follow.spacing(self.steps)
    follows = self.follows                       # which a longer slider does not change
    if (self.at.min, self.at.max) != (first, last):
      self.at.min, self.at.max, self.at.step = first, last, step
    if follows:
      self.at.value = last
    self.say('shown', '\n\n'.join(f'`{state.run.folder}` step {state.step}'
                                  for _, state, _ in self.shown))
    if self.single:
      self.show_cameras()

  def show_cameras(self):
    """The cameras of the training step, if they are asked for."""
    key, state, object = self.shown[0]
    want = key if self.training.value else None
    if want == self.seen_by:
      return
    self.seen_by = want
    for handle in self.frusta:
      handle.remove()
    self.frusta = page.place_cameras(self.server.scene, state.cameras(),
                                     scale=.2 * object.radius) if want else []
    self.desk.again()

  def show_mesh(self):
    """The mesh, where it is asked for: beside the picture, which makes room for it, or in its
    place."""
    shown, how = self.shown[0], self.mesh.value
    if how != HIDDEN and self.mesh_of != shown.key:
      self.mesh_of, glb = shown.key, None        # asked once, also where there is none
      try:
        glb = self.glb(shown)
      finally:
        if self.mesh_handle:
          self.mesh_handle.remove()
        self.mesh_handle = glb and page.place(self.server.scene, glb, np.zeros(3),
                                              name=str(shown.key[1]))
    arrangement = how if self.mesh_handle else HIDDEN
    if self.mesh_handle:
      self.mesh_handle.visible = how != HIDDEN
      self.mesh_handle.position = page.beside(shown.object, .5 * (how == BESIDE))
    if arrangement != self.arrangement:
      self.arrangement = arrangement
      self.desk.again()

  def glb(self, shown: Shown) -> bytes:
    """The mesh of what is shown, made once."""
    with self.extracting:
      if shown.key not in self.glbs:
        self.glbs[shown.key] = page.glb_of(shown.object, shown.state.run.resolution)
        for old in list(self.glbs)[:-KEPT]:
          self.glbs.pop(old)
      return self.glbs[shown.key]

  def send_page(self, event):
    """Sends the visitor the meshes of what is shown, as a page to keep."""
    try:
      shown = self.shown
      html = page.saved([each.object for each in shown], [self.glb(each) for each in shown])
    except Empty as error:
      self.say('page', str(error))
      return
    event.client.send_file_download('jaxdreamer.html', html.encode(), save_immediately=True)

  def draw(self, level: int):
    """Renders pictures of a level until the desk is closed."""
    while job := self.desk.take(level):
      try:
        self.picture(job)
      except Exception as error:                 # one picture; the next may do
        print(f'jaxdreamer: {error}', file=sys.stderr, flush=True)
        self.say('picture', str(error))

  def picture(self, job):
    """Renders one job and shows it."""
    client = self.server.get_clients().get(job.who)
    if client is None:
      return
    objects = [each.object for each in self.shown]
    image = depth = None
    if self.arrangement != IN_PLACE:
      aside = page.beside(objects[0], -.5 * (self.arrangement == BESIDE))
      window = job.what._replace(aspect=job.what.aspect / len(objects),
                                 position=job.what.position - aside)
      camera = lookout.to_camera(window, ball=0. if objects[0].inside else max(
        object.radius for object in objects))
      seen = [jax.device_get(object.render(camera, WHITE, size=self.sizes[job.level]))
              for object in objects]
      image = lookout.picture(seen, camera, window, kind=self.kind.value)
      if self.frusta or self.arrangement == BESIDE:
        depth = lookout.along_view(seen[0], camera, window, far=FAR)
    if self.desk.deliver(job):
      client.scene.set_background_image(image, format='png', depth=depth)
