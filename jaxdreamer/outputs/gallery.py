"""gallery.html: many objects on one page that needs no network, each turned by the pointer, with a
box to pick prompts."""
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdreamer.outputs import pages, video


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
    picture = video.png(np.concatenate(list(row.frames), 1))
    return {'prompt': row.prompt, 'split': row.split, 'scores': row.scores,
            'picture': pages.data_url('image/png', picture)}
  text = pages.render('gallery.html', title=title, rows=list(map(entry, rows)),
                      frames=len(rows[0].frames))
  path.write_text(text, encoding='utf-8')
  return path
