"""gallery.html: many objects on one page that needs no network, each turned by the pointer, with a
box to pick prompts."""
import base64
import html
import pathlib
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdreamer.outputs import report, video

TEMPLATE = pathlib.Path(__file__).with_suffix('.html')


class Row(NamedTuple):
  """One object: its prompt, the group it belongs to, pictures from around it, and its scores by
  name."""
  prompt: str
  split: str
  frames: Float[np.ndarray, 'F H W 3']
  scores: dict[str, float]


def write(path: pathlib.Path, rows: list[Row], *, title: str) -> pathlib.Path:
  """The page. All rows have the same number of frames, and they stand side by side in one picture a
  row."""
  def entry(row):
    picture = base64.b64encode(video.png(np.concatenate(list(row.frames), 1))).decode()
    return {'prompt': row.prompt, 'split': row.split, 'scores': row.scores,
            'picture': f'data:image/png;base64,{picture}'}
  fields = {'title': html.escape(title), 'rows': report.safe_json([entry(row) for row in rows]),
            'frames': str(len(rows[0].frames))}
  path.write_text(re.sub(r'\{\{(\w+)\}\}', lambda match: fields[match[1]],
                         TEMPLATE.read_text(encoding='utf-8')), encoding='utf-8')
  return path
