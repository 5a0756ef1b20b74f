"""Scores of pictures and of points, as pure functions of arrays, and what each means.

Images are [V, H, W, 3] in [0, 1], masks and opacity [V, H, W].
"""
import math

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

Images = Float[np.ndarray, 'V H W 3']
Masks = Float[np.ndarray, 'V H W']
SURFACE = 20_000                       # points on each surface for the Chamfer distance

MEANING = {
  'silhouette_iou': 'overlap of opacity and true mask, mean of 32 unseen views; 1 is perfect',
  'psnr': 'decibels, against the true pictures in the same views',
  'normal_degrees': 'mean angle between the normals of render and truth, where both are opaque',
  'color_error': 'mean absolute difference of color where render and truth are both opaque',
  'color_right': 'the color that explains the object best is the one asked for',
  'color_found': 'that color, of the twelve of the toybox',
  'recall_at_1': 'share of views that a reader finds to fit the prompt better than any prompt with '
  'one other word',
  'chamfer': f'mean distance between the surfaces, both ways; its floor, from {SURFACE} points on '
  'each, is .01',
  'volume_iou': 'overlap of the solids',
  'pose_gap': 'what the silhouettes gain if the object is turned to its best yaw; 0 is a true pose',
  'yaw': 'that best yaw, in degrees',
  'front': 'of [-1, 1]: 1 the front view is the true front, -1 it is the true back',
  'back': 'of [-1, 1]: 1 the back view is the true back, -1 it is the true front (Janus)',
  'one_front': 'both of them are above 0',
  'symmetry': 'of [0, 1]: 0 front and back differ at least as they should, 1 they are the same',
  'mesh_iou': 'silhouettes of the mesh against those of the render; .95 is faithful',
  'watertight': 'the mesh is closed',
  'room_psnr': 'decibels, against the true pictures in 24 unseen views from inside',
  'room_depth_pearson': 'correlation of the depth of all their pixels with the true one',
  'room_depth_error': 'mean absolute difference of that depth, in scene units',
  'room_normal_degrees': 'mean angle between the normals of render and truth in these views',
  'room_opacity': 'mean of the render in these views; a room has no holes',
  'clip_similarity': "mean cosine of CLIP's view of the pictures and of the prompt",
  'clip_recall_at_1': 'share of views that CLIP finds nearest to the prompt, of all in --prompts',
}


def iou(a: Bool[np.ndarray, '...'], b: Bool[np.ndarray, '...']) -> float:
  """|a and b| / |a or b|; two empty sets agree."""
  union = np.sum(a | b)
  return float(np.sum(a & b) / union) if union else 1.


def silhouette_iou(opacity: Masks, mask: Masks) -> float:
  """Mean over views of the IoU of what is at least half opaque."""
  return float(np.mean([iou(a, b) for a, b in zip(np.asarray(opacity) >= .5,
                                                  np.asarray(mask) >= .5)]))


def psnr(x: Images, y: Images) -> float:
  """-10 log10 of the mean squared difference."""
  return float(-10. * np.log10(max(np.mean((x - y) ** 2), 1e-12)))


def normal_degrees(a: Images, b: Images, opaque: Bool[np.ndarray, 'V H W']) -> float | None:
  """Mean angle in degrees between normals of any length, where `opaque`; None where nothing is."""
  unit = lambda n: n / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-9)
  cosine = np.sum(unit(np.asarray(a, float)) * unit(np.asarray(b, float)), -1)[opaque]
  return float(np.degrees(np.arccos(np.clip(cosine, -1., 1.)).mean())) if len(cosine) else None


def pearson(a: Float[np.ndarray, '...'], b: Float[np.ndarray, '...']) -> float:
  """The correlation of two arrays, over all their numbers; 0 where one is constant."""
  a, b = (np.asarray(v, float) - np.mean(v, dtype=float) for v in (a, b))
  return float(np.sum(a * b) / max(np.sqrt(np.sum(a * a) * np.sum(b * b)), 1e-12))


def chamfer(a: Float[np.ndarray, 'N 3'], b: Float[np.ndarray, 'M 3']) -> float:
  """(mean_a min_b |a - b| + mean_b min_a |a - b|) / 2."""
  return float(.5 * (np.mean(KDTree(b).query(a)[0]) + np.mean(KDTree(a).query(b)[0])))


def pose_gap(opacity: Masks, mask: Masks, *, ring: int) -> tuple[float, float]:
  """Best-yaw IoU minus true-pose IoU, and that yaw in radians, from views in rings of `ring` equal
  steps of azimuth.

  Turning the object by k steps moves each view k places along its ring, so no view is rendered
  twice.
  """
  turned = opacity.reshape(-1, ring, *opacity.shape[1:])
  scores = [silhouette_iou(np.roll(turned, -k, axis=1).reshape(opacity.shape), mask)
            for k in range(ring)]
  best = int(np.argmax(scores))
  return scores[best] - scores[0], math.remainder(2. * math.pi * best / ring, 2. * math.pi)


def unlikeness(a: Images, b: Images) -> float:
  """d(a, b) = min over b and b mirrored left to right of mean |a - b|: a distance, since mirroring
  keeps lengths.

  Front and back silhouettes mirror each other, so without the mirror any lopsided object would seem
  to have two faces.
  """
  return float(min(np.mean(np.abs(a - b)), np.mean(np.abs(a - b[:, :, ::-1]))))


def janus(front: Images, back: Images, true_front: Images, true_back: Images) -> dict:
  """Does the back look like the front where it must not? Renders and truths from azimuths 0 and pi,
  same backgrounds.

    front = (d(front, true_back) - d(front, true_front)) / d(true_front, true_back)
    back = (d(back, true_front) - d(back, true_back)) / d(true_front, true_back)
    one_front = front > 0 and back > 0
    symmetry = max(0, 1 - d(front, back) / d(true_front, true_back))

  d is `unlikeness`. By the triangle inequality front and back are in [-1, 1]; symmetry is blind to
  the pose.
  """
  apart = unlikeness(true_front, true_back)
  if apart < 1e-6:
    raise ValueError('the true front and back are the same picture: this object cannot be a Janus')
  ahead = (unlikeness(front, true_back) - unlikeness(front, true_front)) / apart
  behind = (unlikeness(back, true_front) - unlikeness(back, true_back)) / apart
  return {'front': ahead, 'back': behind, 'one_front': ahead > 0. and behind > 0.,
          'symmetry': max(0., 1. - unlikeness(front, back) / apart)}


def nearest_color(x: Images, opacity: Masks,
                  candidates: Float[np.ndarray, 'K V H W 3']) -> int | None:
  """Which of K recolorings of the truth explains x best (least squares), over solid pixels where
  they differ."""
  where = (np.ptp(candidates, axis=0).max(-1) > .1) & (opacity >= .5)
  errors = np.mean((candidates[:, where] - x[where]) ** 2, (1, 2)) if where.any() else []
  return int(np.argmin(errors)) if len(errors) else None


def recall_at_1(scores: Float[np.ndarray, 'V K'], target: int) -> float:
  """R@1: the share of views that text number `target`, of K, fits best (CLIP R-precision, Park et
  al. 2021)."""
  return float(np.mean(scores.argmax(1) == target))
