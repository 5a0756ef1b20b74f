"""configs/sd.py's scene and its renderer in plain PyTorch: hash grid and two networks, a network of
the direction behind it, proposals, exact normals, a lamp. The maths of scenes/hashgrid.py,
scenes/backgrounds.py, volume.py and render.py, for many points or rays [R] at once.

Params are {'tables': [levels of [T, F]], 'density' and 'features' and 'background': kernels}.
"""
import itertools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

PRIMES = (1, 2654435761, 805459861)


class Scene(NamedTuple):
  """What configs say of it."""
  sizes: tuple                     # cells a side of each level
  strength: float
  radius: float                    # of the blob
  extent: float
  ball: float                      # render.radius
  normals: bool                    # whether anything reads them


class Given(NamedTuple):
  """What a step draws of its renders: rays [R, 3], places of their samples, lamp and background."""
  origin: torch.Tensor
  direction: torch.Tensor
  u: torch.Tensor                  # [R, S] of the proposals
  u_fine: torch.Tensor             # [R, N]
  share: torch.Tensor              # [levels]: hashgrid.fade_in's
  lamp: Any = None                 # position [3], ambient [], diffuse [], textureless []
  flat: Any = None                 # a color [3] in place of the background's, or None


def slots(corner, size, rows):
  """[P, 8] rows of a table, of corners [P, 8, 3]."""
  if (size + 1) ** 3 <= rows:
    return (corner[..., 0] * (size + 1) + corner[..., 1]) * (size + 1) + corner[..., 2]
  x, y, z = (corner[..., i] * prime for i, prime in enumerate(PRIMES))
  return (x ^ y ^ z) & (rows - 1)


def encode(tables, xyz, *, sizes, share):
  """[P, E] features of points [P, 3]."""
  out, place = [], (.5 * (xyz + 1.)).clamp(0., 1.)
  offsets = torch.tensor(list(itertools.product((0, 1), repeat=3)), device=xyz.device)
  for level, (table, size) in enumerate(zip(tables, sizes)):
    at = place * size
    cell = at.detach().floor().clamp(max=size - 1.)
    part = at - cell
    x, y, z = torch.stack([1. - part, part], -1).unbind(1)             # [P, 2] each
    weight = (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]).flatten(1)
    index = slots(cell.long()[:, None] + offsets, size, len(table))
    rows = table.index_select(0, index.flatten()).unflatten(0, index.shape)
    out.append(share[level] * (weight[..., None] * rows).sum(1))
  return torch.cat(out, -1)


def network(kernels, h):
  for kernel in kernels[:-1]:
    h = F.relu(h @ kernel)
  return h @ kernels[-1]


def length(v):
  return (v * v).sum(-1).clamp(min=1e-12).sqrt()


def field(params, xyz, *, scene, share):
  """(density [P], color [P, 3])."""
  encoded = encode(params['tables'], xyz / scene.extent, sizes=scene.sizes, share=share)
  bias = scene.strength * (1. - length(xyz) / scene.radius)
  density = F.softplus(network(params['density'], encoded)[:, 0] + bias)
  return density, torch.sigmoid(network(params['features'], encoded))


def field_with_normals(params, xyz, *, scene, share):
  """The same, and the unit normals [P, 3], through which gradients pass."""
  if not scene.normals:
    return *field(params, xyz, scene=scene, share=share), torch.zeros_like(xyz)
  with torch.enable_grad():
    xyz = xyz.detach().requires_grad_()
    density, color = field(params, xyz, scene=scene, share=share)
    slope, = torch.autograd.grad(density.sum(), xyz, create_graph=True)
  return density, color, -slope / length(slope)[:, None]


def harmonics(direction):
  x, y, z = direction.unbind(-1)
  linear, square = .48860251, 1.0925484
  return torch.stack([torch.full_like(x, .28209479), linear * y, linear * z, linear * x,
                      square * x * y, square * y * z, .94617470 * z * z - .31539157,
                      square * x * z, .5 * square * (x * x - y * y)], -1)


def weights_of(density, dist):
  """(weights [R, S], transmittance [R])."""
  far = torch.cumsum(density * dist.diff(dim=1), 1)
  trans = torch.exp(-F.pad(far, (1, 0)))
  return trans[:, :-1] - trans[:, 1:], trans[:, -1]


def ball_interval(origin, direction, radius):
  nearest = -(origin * direction).sum(-1)
  chord2 = radius ** 2 - (origin ** 2).sum(-1) + nearest ** 2
  half = torch.where(chord2 > 0., chord2.clamp(min=1e-12).sqrt(), torch.zeros_like(chord2))
  return (nearest - half).clamp(min=0.)[:, None], (nearest + half).clamp(min=0.)[:, None]


def interp(u, xp, fp):
  """numpy.interp by rows."""
  i = torch.searchsorted(xp.contiguous(), u.contiguous(), right=True).clamp(1, xp.shape[1] - 1)
  x0, x1, f0, f1 = (a.gather(1, j) for a in (xp, fp) for j in (i - 1, i))
  return f0 + (u - x0) / (x1 - x0) * (f1 - f0)


def refined(weights, dist, n):
  """[R, n + 1] distances between which the weight of the proposals is equal."""
  padded = torch.cat([weights[:, :1], weights, weights[:, -1:]], 1)
  wide = torch.maximum(weights, torch.maximum(padded[:, :-2], padded[:, 2:]))
  share = dist.diff(dim=1) / (dist[:, -1:] - dist[:, :1]).clamp(min=1e-9)
  mass = .75 * wide / wide.sum(1, keepdim=True).clamp(min=1e-9) + .25 * share
  mass = mass + 1e-6 * mass.mean(1, keepdim=True) + 1e-20
  cdf = F.pad(torch.cumsum(mass, 1), (1, 0))
  u = torch.linspace(0., 1., n + 1, device=dist.device).expand(len(dist), -1)
  return interp(u, cdf / cdf[:, -1:], dist)


def in_strata(dist, u):
  """A point of each interval, at the place that u [R, S] has in its stratum."""
  s = u.shape[1]
  return dist[:, :-1] + dist.diff(dim=1) * (u * s - torch.arange(s, device=u.device))


def lit(lamp, color, normal, xyz):
  position, ambient, diffuse, textureless = lamp
  toward = F.normalize(position - xyz, dim=-1)
  rho = textureless + (1. - textureless) * color
  return rho * (ambient + diffuse * (normal * toward).sum(-1, keepdim=True).clamp(min=0.))


def render(params, given, *, scene):
  """(rgb [R, 3], opacity [R], orientation [R])."""
  o, d = given.origin, given.direction
  along = lambda dist: (o[:, None] + d[:, None] * dist[..., None]).flatten(0, 1)
  near, far = ball_interval(o, d, scene.ball)
  with torch.no_grad():
    edges = torch.linspace(0., 1., given.u.shape[1] + 1, device=o.device)[None]
    dist = near + (far - near) * edges
    density, _ = field(params, along(near + (far - near) * given.u), scene=scene,
                       share=given.share)
    weights, _ = weights_of(density.reshape(given.u.shape), dist)
    dist = refined(weights, dist, given.u_fine.shape[1])
    xyz = along(in_strata(dist, given.u_fine))
  density, color, normal = field_with_normals(params, xyz, scene=scene, share=given.share)
  weights, trans = weights_of(density.reshape(given.u_fine.shape), dist)
  color = lit(given.lamp, color, normal, xyz) if given.lamp else color
  by_ray = lambda a: a.reshape(*given.u_fine.shape, -1)
  behind = torch.sigmoid(network(params['background'], harmonics(d)))
  behind = behind if given.flat is None else given.flat.expand_as(behind)
  rgb = (weights[..., None] * by_ray(color)).sum(1) + trans[:, None] * behind
  away = (by_ray(normal) * d[:, None]).sum(-1).clamp(min=0.)
  return rgb, 1. - trans, (weights.detach() * away ** 2).sum(1)
