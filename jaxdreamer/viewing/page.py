"""What is made with viser beside the controls: a server, meshes and cameras in its scene, and a
page of meshes that needs no server. viser is an extra, and imported where it is called.
"""
import contextlib
import io
import logging
import math
from typing import Sequence

import numpy as np
from jaxtyping import Float

from jaxdreamer import cameras
from jaxdreamer.objects import Object
from jaxdreamer.outputs import mesh as meshes
from jaxdreamer.outputs import mesh_files, video
from jaxdreamer.types import Camera
from jaxdreamer.viewing import lookout

FROM_GLB = (.5, .5, .5, .5)              # turns glTF's y up, front +z into z up, front +x
APART = 1.7                              # radii from one object to the next beside it
AZIMUTH, ELEVATION = math.radians(30.), math.radians(20.)      # where a visitor stands at first
INK = (80, 90, 110)                      # of the training cameras


def serve(host: str, port: int, label: str):
  """A server of viser's at this address, 0 being any free port; it says nothing by itself."""
  import viser  # an extra
  # a browser that opens a connection ahead and leaves it is no error
  logging.getLogger('websockets').setLevel(logging.CRITICAL)
  with contextlib.redirect_stdout(io.StringIO()):
    server = viser.ViserServer(host=host, port=port, label=label, verbose=False)
  server.gui.configure_theme(show_logo=False, show_share_button=False, brand_color=INK)
  server.scene.configure_default_lights(False)
  server.scene.configure_environment_map(None)   # one's own colors, and a little shade
  server.scene.add_light_ambient('/light/around', intensity=2.4)
  server.scene.add_light_directional('/light/above', intensity=.9, position=(2., 1., 4.))
  return server


def shut(server) -> None:
  """Ends a server, as silently."""
  with contextlib.redirect_stdout(io.StringIO()):
    server.stop()


def look_at(server, object: Object) -> None:
  """Where visitors of the server stand at first."""
  start = cameras.orbital(AZIMUTH, ELEVATION, object.away, object.fov)
  server.initial_camera.position = np.asarray(start.world_from_camera[:3, 3])
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
    for k, (glb, object) in enumerate(zip(glbs, objects)):
      place(server.scene, glb, beside(object, k - .5 * (len(glbs) - 1)), name=str(k))
    return server.get_scene_serializer().as_html()
  finally:
    shut(server)


def beside(object: Object, places: float) -> Float[np.ndarray, '3']:
  """So many places to the right of the middle, as a visitor sees it at first."""
  right = np.array([-math.sin(AZIMUTH), math.cos(AZIMUTH), 0.])
  return APART * object.radius * places * right


def place(scene, glb: bytes, position: Float[np.ndarray, '3'], *, name: str):
  """Puts a mesh into the scene; its handle."""
  return scene.add_glb(f'/mesh/{name}', glb, wxyz=FROM_GLB, position=position)


def place_cameras(scene, camera: Camera, *, scale: float) -> list:
  """Puts the frusta of [V] cameras into the scene; their handles."""
  handles = []
  for k, one in enumerate(video.unbatch(camera)):
    wxyz, position = lookout.of_camera(one)
    handles.append(scene.add_camera_frustum(f'/cameras/{k}', float(one.fov), 1., scale=scale,
                                            color=INK, wxyz=wxyz, position=position))
  return handles
