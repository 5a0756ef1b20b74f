"""Triangles on a grid of pixels, all of them at once. Pixel (i, j), row and column, has its center
at (i, j)."""
import numpy as np
from jaxtyping import Float, Int

ROUNDING = 1e-9                  # of weights: an edge through a center holds it


def cover(x: Float[np.ndarray, 'F 3'], y: Float[np.ndarray, 'F 3'], *, size: int) -> tuple[
    Int[np.ndarray, 'N'], Int[np.ndarray, 'N'], Int[np.ndarray, 'N'], Float[np.ndarray, 'N 3']]:
  """Every pair of a triangle and a pixel of [size, size] whose center it holds, its edges included:
  face, row, column, and the weights of its corners there, which sum to 1. `x` are the columns of
  its corners, `y` their rows, in either turn."""
  x0, y0 = (np.clip(np.ceil(v.min(1)), 0, size).astype(int) for v in (x, y))
  x1, y1 = (np.clip(np.floor(v.max(1)) + 1, 0, size).astype(int) for v in (x, y))
  wide, high = np.maximum(x1 - x0, 0), np.maximum(y1 - y0, 0)
  count = wide * high
  # one entry for each pixel of each face's bounding box
  face = np.repeat(np.arange(len(x)), count)
  place = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
  i, j = y0[face] + place // wide[face], x0[face] + place % wide[face]
  dx, dy = x[face] - j[:, None], y[face] - i[:, None]
  w = np.roll(dx, -1, 1) * np.roll(dy, -2, 1) - np.roll(dx, -2, 1) * np.roll(dy, -1, 1)
  area = w.sum(1, keepdims=True)
  w = w / np.where(area == 0., 1., area)
  inside = (w >= -ROUNDING).all(1) & (area[:, 0] != 0.)
  return face[inside], i[inside], j[inside], w[inside]
