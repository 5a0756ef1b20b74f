"""The viewer's page, by viser: what a visitor sees of one run, or of two side by side.

Threads: `watch` reads the workdirs, and makes meshes; one thread a level renders what desk.py says;
viser's own serve the page. Each visitor has a camera; what is shown is the same for all.
"""
import contextlib
import io
import sys
import threading
from typing import Callable, Sequence

import jax
import numpy as np

from jaxdreamer import cameras
from jaxdreamer.objects import Object
from jaxdreamer.outputs import mesh as meshes
from jaxdreamer.outputs import mesh_files
from jaxdreamer.viewing import follow, lookout
from jaxdreamer.viewing.desk import COARSE, FINE, Desk

POLL = 1.                                # seconds between two looks at a workdir
COARSER = 4                              # pixels of a side of a fine picture to one of a coarse
HIDDEN, BESIDE, IN_PLACE = 'hidden', 'beside the picture', 'in place of it'
FROM_GLB = (.5, .5, .5, .5)              # turns glTF's y up, front +z into z up, front +x
APART = 2.2                              # radii between an object and the mesh beside it
FAR = 100.                               # of what nothing stands before
WHITE = np.ones(3, np.float32)
INK = (80, 90, 110)                      # of the training cameras


def serve(host: str, port: int, label: str):
  """A server of viser's at this address, 0 being any free port; it says nothing by itself."""
  import viser  # an extra
  with contextlib.redirect_stdout(io.StringIO()):
    server = viser.ViserServer(host=host, port=port, label=label, verbose=False)
  server.gui.configure_theme(show_logo=False, show_share_button=False, brand_color=INK)
  return server


def shut(server) -> None:
  """Ends a server, as silently."""
  with contextlib.redirect_stdout(io.StringIO()):
    server.stop()


def look_at(server, object: Object) -> None:
  """Where visitors of the server stand at first."""
  start = cameras.orbit((12, .35), distance=object.away, fov=object.fov)
  server.initial_camera.position = start.world_from_camera[1, :3, 3]
  server.initial_camera.look_at = np.zeros(3)
  server.initial_camera.fov = object.fov


def glb_of(object: Object, resolution: int) -> bytes:
  """The mesh of an object, with colors on its vertices. meshes.Empty where there is none."""
  return mesh_files.to_glb(meshes.matched(object, resolution=resolution)[0])['mesh.glb']


def saved(objects: Sequence[Object], glbs: Sequence[bytes]) -> str:
  """An HTML page that holds the meshes, side by side, and needs neither network nor server."""
  server = serve('127.0.0.1', 0, 'jaxdreamer')
  try:
    look_at(server, objects[0])
    place(server.scene, glbs, first=-.5 * (len(glbs) - 1), radius=objects[0].radius)
    return server.get_scene_serializer().as_html()
  finally:
    shut(server)


def place(scene, glbs: Sequence[bytes], *, first: float, radius: float) -> list:
  """Puts meshes into the scene, the one at `first` times what they are apart, and the others to its
  right; their handles."""
  scene.configure_default_lights(cast_shadow=False)
  return [scene.add_glb(f'/mesh/{k}', glb, wxyz=FROM_GLB,
                        position=(0., APART * radius * (first + k), 0.))
          for k, glb in enumerate(glbs)]


class Viewer:
  """A page over `workdirs`, one or two, each with a checkpoint. `open` maps one to its follow.Run;
  fine pictures have `size` pixels on their longer side. Enter it to serve; leaving it ends all."""

  def __init__(self, workdirs: Sequence, *, open: Callable, size: int, host: str, port: int):
    self.workdirs, self.open, self.sizes = workdirs, open, {COARSE: -(-size // COARSER), FINE: size}
    self.desk, self.wake, self.closing = Desk(), threading.Event(), False
    self.runs, self.keys, self.glbs, self.meshes, self.frusta = {}, [], {}, [], []
    self.extracting = threading.Lock()
    self.load(None, '')
    self.server = serve(host, port, 'jaxdreamer')
    self.threads = [threading.Thread(target=self.watch, name='watch'),
                    *(threading.Thread(target=self.draw, args=(level,), name=f'draw {level}')
                      for level in (COARSE, FINE))]

  def __enter__(self):
    look_at(self.server, self.objects[0])
    self.add_controls()
    self.server.on_client_connect(self.welcome)
    self.server.on_client_disconnect(lambda client: self.desk.forget(client.client_id))
    for thread in self.threads:
      thread.start()
    return self

  def __exit__(self, *_):
    self.closing = True
    self.wake.set()
    self.desk.close()
    for thread in self.threads:
      thread.join()
    shut(self.server)

  def add_controls(self):
    """What stands in the page's panel."""
    gui, many = self.server.gui, len(self.states[0].run.model.prompts) > 1
    self.prompt = gui.add_text('Prompt', self.states[0].run.model.prompts[0], disabled=not many)
    self.kind = gui.add_dropdown('Picture', lookout.KINDS)
    self.kind.on_update(lambda _: self.desk.again())
    first, last, step = follow.spacing(self.steps)
    self.at = gui.add_slider('Step', first, last, step, last,
                             hint='A checkpoint; at the right end, always the newest.')
    self.follows = True
    self.at.on_update(self.moved)
    waking = [self.prompt]
    if len(self.workdirs) == 1:
      ways = (HIDDEN, IN_PLACE) if self.objects[0].inside else (HIDDEN, BESIDE, IN_PLACE)
      self.mesh = gui.add_dropdown('Mesh', ways)
      self.training = gui.add_checkbox('Cameras of the step', False)
      waking += [self.mesh, self.training]
    for control in waking:
      control.on_update(lambda _: self.wake.set())
    gui.add_button('Save the mesh as a page').on_click(self.send_page)
    self.said = gui.add_markdown('')

  def moved(self, event):
    """The slider: at its end it follows the run."""
    self.follows = self.at.value >= self.at.max
    self.wake.set()

  async def welcome(self, client):
    """A new visitor: each move of their camera is a wish."""
    async def ask(camera):
      self.desk.ask(client.client_id, lookout.Lookout(camera.wxyz, camera.position,
                                                      float(camera.fov), float(camera.aspect)))
    client.camera.on_update(ask)
    await ask(client.camera)

  def load(self, wanted: int | None, prompt: str) -> bool:
    """The newest checkpoints up to the step wanted of each workdir become what is shown; whether
    that is anything new."""
    self.steps = sorted({step for workdir in self.workdirs for step in follow.steps_in(workdir)})
    keys, states = [], []
    for workdir in self.workdirs:
      steps, folder = follow.steps_in(workdir), follow.workdirs.newest_stage(workdir)
      keys.append((folder, follow.chosen(steps, wanted), prompt))
    if keys == self.keys:
      return False
    for workdir, (folder, step, _) in zip(self.workdirs, keys):
      if getattr(self.runs.get(workdir), 'folder', None) != folder:
        self.runs[workdir] = self.open(workdir)
      states.append(follow.state_at(self.runs[workdir], step))
    self.objects = [state.object(prompt) for state in states]
    self.keys, self.states = keys, states
    return True

  def watch(self):
    """Looks at the workdirs every POLL seconds and whenever a control asks, until closed."""
    while not self.closing:
      try:
        self.turn()
      except (OSError, ValueError) as error:     # a checkpoint that just went, a prompt refused
        self.say(str(error))
      self.wake.wait(POLL)
      self.wake.clear()

  def turn(self):
    """One look."""
    many = not self.prompt.disabled
    new = self.load(None if self.follows else self.at.value, self.prompt.value if many else '')
    if new:
      self.desk.again()
    self.slide()
    self.say('\n\n'.join(f'`{state.run.folder}` step {state.step}' for state in self.states))
    if len(self.workdirs) == 1:
      self.show_cameras()
      self.show_mesh()

  def slide(self):
    """Brings the slider to the checkpoints that there are."""
    first, last, step = follow.spacing(self.steps)
    follows = self.follows
    if (self.at.min, self.at.max) != (first, last):
      self.at.min, self.at.max, self.at.step = first, last, step
    if follows and self.at.value != last:
      self.at.value = last

  def say(self, line: str) -> None:
    """Shows a line under the controls."""
    if self.said.content != line:
      self.said.content = line

  def glb(self, k: int) -> bytes:
    """The mesh of what is shown of the k-th workdir, made once a checkpoint."""
    with self.extracting:
      if (key := self.keys[k]) not in self.glbs:
        self.glbs[key] = glb_of(self.objects[k], self.states[k].run.resolution)
      return self.glbs[key]

  def show_mesh(self):
    """The mesh, as it is asked for; the picture gives way where it takes its place."""
    want = (self.mesh.value, self.keys[0]) if self.mesh.value != HIDDEN else None
    if want == getattr(self, 'meshed', None):
      return
    glbs = [self.glb(0)] if want else []
    for handle in self.meshes:
      handle.remove()
    self.meshes = place(self.server.scene, glbs, first=float(self.mesh.value == BESIDE),
                        radius=self.objects[0].radius)
    self.meshed = want
    self.desk.again()

  def show_cameras(self):
    """The cameras of the training step, if they are asked for."""
    want = self.keys[0] if self.training.value else None
    if want == getattr(self, 'seen_by', None):
      return
    for handle in self.frusta:
      handle.remove()
    camera = self.states[0].cameras()
    self.frusta = []
    for k in range(len(camera.fov) if want else 0):
      wxyz, position = lookout.of_camera(jax.tree.map(lambda a, k=k: a[k], camera))
      self.frusta.append(self.server.scene.add_camera_frustum(
        f'/cameras/{k}', float(camera.fov[k]), 1., scale=.2 * self.objects[0].radius, color=INK,
        wxyz=wxyz, position=position))
    self.seen_by = want
    self.desk.again()

  def draw(self, level: int):
    """Renders pictures of a level until the desk is closed."""
    while job := self.desk.take(level):
      try:
        self.picture(job)
      except Exception as error:                 # one picture; the next may do
        print(f'jaxdreamer: {error}', file=sys.stderr, flush=True)
        self.say(str(error))

  def picture(self, job):
    """Renders one job and shows it."""
    client = self.server.get_clients().get(job.who)
    if client is None:
      return
    objects = self.objects
    window = job.what._replace(aspect=job.what.aspect / len(objects))
    camera = lookout.to_camera(window, ball=0. if objects[0].inside else max(
      object.radius for object in objects))
    if self.meshes and self.mesh.value == IN_PLACE:
      image = depth = None
    else:
      seen = [jax.device_get(object.render(camera, WHITE, size=self.sizes[job.level]))
              for object in objects]
      image = lookout.picture(seen, camera, window, kind=self.kind.value)
      depth = lookout.along_view(seen[0], camera, window, far=FAR) if (
        self.meshes or self.frusta) else None
    if self.desk.deliver(job):
      client.scene.set_background_image(image, format='png', depth=depth)

  def send_page(self, event):
    """Sends the visitor the meshes of what is shown, as a page to keep."""
    try:
      page = saved(self.objects, [self.glb(k) for k in range(len(self.objects))])
    except meshes.Empty as error:
      self.say(str(error))
      return
    event.client.send_file_download('jaxdreamer.html', page.encode(), save_immediately=True)
