"""The report: one file without network, in which text stays text; what the folder lacks is left
out, not an error."""
import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import trimesh

from jaxdreamer.outputs import gallery, mesh_files, report, surface, video

NASTY = ('</script><script>alert("1")</script> & <img src=x onerror=\'alert(2)\'> {{data}} '
         '\u2028 ünïcode')
VERTICES = np.array([[0., 0., 0.], [1., 0., 0.], [0., .5, 0.], [0., 0., .25]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
COLORS = np.array([[1., 0., 0.], [0., 1., 0.], [0., 0., 1.], [1., 1., 1.]])


class Parsed(HTMLParser):
  """Tags with their attributes, and the text by the id or name of the element it is in."""

  def __init__(self, text):
    super().__init__(convert_charrefs=True)
    self.tags, self.texts, self._open = [], {}, []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.append((tag, attrs))
    self._open.append(attrs.get('id') or tag)

  def handle_endtag(self, tag):
    self._open.append('between')

  def handle_data(self, data):
    if self._open:
      self.texts[self._open[-1]] = self.texts.get(self._open[-1], '') + data


def page(**more):
  told = {'prompt': 'a red cube', 'settings': {'steps': 3}, 'command': 'python -m x',
          'about': {'device': 'cpu'}}
  return report.page(**told | more)


def data_of(text):
  return json.loads(Parsed(text).texts['data'])


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'previews').mkdir()
  for step in (100, 20, 3):
    picture = np.full((4, 4, 3), step / 100.)
    (tmp_path / 'previews' / f'step_{step}.png').write_bytes(video.png(picture))
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0, '
                                          '"late": 5}\n')
  mesh_files.save(surface.Mesh(VERTICES, FACES, COLORS), tmp_path, formats=('ply',))
  (tmp_path / 'mesh.json').write_text('{"faces": 4, "watertight": true}')
  (tmp_path / 'scores.json').write_text('{"scores": {"psnr": 21.5, "front": null}, "meaning": '
                                        '{"psnr": "dB"}}')
  video.save_video(tmp_path / 'turntable.mp4', [np.full((16, 16, 3), .5)] * 2)
  return tmp_path


def test_nothing_is_fetched_from_anywhere(folder):
  text = report.write(folder, prompt='x', settings={}, command='y', about={}).read_text()
  # a name, never fetched
  assert set(re.findall(r'https?://[^\s\'"]+', text)) == {'http://www.w3.org/2000/svg'}
  assert not re.search(r'@import|url\(|fetch\(|XMLHttpRequest|\bimport\b', text)
  for tag, attrs in Parsed(text).tags:
    for name in ('src', 'href', 'poster', 'data'):
      assert attrs.get(name, 'data:').startswith('data:') or not attrs[name], (tag, attrs)


def test_text_stays_text(folder):
  told = {'prompt': NASTY, 'settings': {NASTY: {NASTY: NASTY}}, 'command': NASTY,
          'about': {NASTY: NASTY}}
  text = report.write(folder, **told).read_text()
  found, plain = Parsed(text), Parsed(page())
  assert found.texts['h1'] == found.texts['command'] == NASTY
  assert [tag for tag, _ in found.tags].count('script') == [tag for tag, _ in plain.tags].count(
      'script') == 2
  assert not [attrs for _, attrs in found.tags if 'onerror' in attrs]
  rows = [{'step': 1, NASTY: 1.}, {'step': 2, NASTY: 2.}]
  assert data_of(page(rows=rows))['curves'][0]['name'] == NASTY


def test_the_text_of_a_gallery_stays_text(tmp_path):
  rows = [gallery.Row(NASTY, NASTY, np.zeros((2, 4, 4, 3)), {NASTY: .5})]
  text = gallery.write(tmp_path / 'gallery.html', rows, title=NASTY).read_text()
  found = Parsed(text)
  assert found.texts['h1'] == NASTY and found.texts['title'] == f'{NASTY} · jaxdreamer'
  assert [tag for tag, _ in found.tags].count('script') == 1
  assert not [attrs for _, attrs in found.tags if 'onerror' in attrs]
  told, = json.loads(re.search(r'const rows = (.*), frames = 2;', text)[1])
  assert told['prompt'] == told['split'] == NASTY and told['scores'] == {NASTY: .5}


def test_the_page_is_built_from_the_folder(folder):
  text = report.write(folder, prompt='a red cube', settings={'optim': {'rate': .03}}, command='c',
                      about={}).read_text()
  data = data_of(text)
  assert [step for step, _ in data['previews']] == [3, 20, 100]
  assert data['curves'] == [{'name': 'loss', 'steps': [1., 2.], 'values': [2., 1.]},
                            {'name': 'late', 'steps': [2.], 'values': [5.]}]
  for words in ('optim.rate', '0.03', 'psnr', '21.5', 'dB', 'watertight'):
    assert words in text
  film = base64.b64decode(re.search(r'data:video/mp4;base64,([^"]+)', text)[1])
  assert film == (folder / 'turntable.mp4').read_bytes()
  assert Parsed(text).tags[[tag for tag, _ in Parsed(text).tags].index('main')][1]['class'] == ''
  (folder / 'scores.json').write_text('{"scores": {"psnr": 99.5}, "meaning": {}}')
  assert '99.5' in report.refresh(folder).read_text()


def test_what_is_not_there_is_left_out(tmp_path):
  text = report.write(tmp_path, prompt='p', settings={}, command='c', about={}).read_text()
  hidden = next(attrs['class'] for tag, attrs in Parsed(text).tags if tag == 'main').split()
  assert set(hidden) == {'no-video', 'no-mesh', 'no-previews', 'no-scores', 'no-curves', 'no-facts'}
  for name in hidden:
    assert f'.{name} #' in text                                 # the style sheet knows what to hide


def test_the_mesh_travels_as_the_file_that_lies_there(folder):
  """That of the GLB before that of the PLY, which becomes one."""
  told = {'prompt': 'x', 'settings': {}, 'command': 'y', 'about': {}}
  mesh = lambda: base64.b64decode(data_of(report.write(folder, **told).read_text())['mesh'])
  back, = trimesh.load_scene(io.BytesIO(mesh()), file_type='glb', process=False).geometry.values()
  np.testing.assert_allclose(back.vertices, VERTICES[:, [1, 2, 0]], atol=1e-6)
  np.testing.assert_array_equal(back.faces, FACES)
  np.testing.assert_allclose(back.visual.vertex_attributes['color'][:, :3], COLORS, atol=1e-6)
  mesh_files.save(surface.Mesh(VERTICES, FACES[:2], COLORS), folder, formats=('glb',))
  assert mesh() == (folder / 'mesh.glb').read_bytes()


def test_long_curves_are_averaged_and_what_is_not_finite_becomes_a_gap():
  rows = [{'step': s, 'a': float(s)} for s in range(1, 1001)]
  curve, = report.curves(rows, points=10)
  assert len(curve['steps']) == 10 and curve['values'] == list(curve['steps'])
  assert np.mean(curve['values']) == pytest.approx(500.5)
  curve, = report.curves([{'step': 1, 'a': math.nan}, {'step': 2, 'a': 1.}])
  assert curve['values'] == [None, 1.]
  assert report.curves([]) == report.curves([{'step': 1, 'a': 0.}, {'step': 2, 'a': 0}]) == []
  assert data_of(page(rows=[{'step': 1, 'a': math.inf}]))['curves'][0]['values'] == [None]


def test_many_previews_are_thinned_evenly_and_both_ends_stay():
  found = [step for step, _ in data_of(page(previews=[(step, b'png') for step in range(1000)]))[
      'previews']]
  assert len(found) == report.PREVIEWS and found[0] == 0 and found[-1] == 999
  assert np.ptp(np.diff(found)) <= 1


def test_numbers_read_well():
  assert [report.number(v) for v in (None, True, False, 3, 12345, .123456, 1e-7, 'x')] == \
      ['–', 'yes', 'no', '3', '12345', '0.1235', '1e-07', 'x']
  assert report.flatten({'a': {'b': 1, 'c': {}}, 'd': 2}) == [('a.b', 1), ('a.c', {}), ('d', 2)]
