"""What is not finite: kept out of the state by the step itself, gone back from by the loop, and
named when nothing else helps. And scenes that show nothing, or nothing else.

    step = guarded(local_step)      a step that is not finite changes nothing but `step`
    after config.guard.skips steps in a row the loop goes back to the newest good checkpoint, one
    that a finite step followed, with fresh noise; after config.guard.rollbacks of that to the same
    checkpoint it stops, and says which tensor `look` found first

    workdir/rollbacks.jsonl         the step that each rollback led to: a run killed after one goes
                                    on with the same noise
"""
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from jaxdreamer import files, optim, parallel, processes, train_step
from jaxdreamer.diffusion import diffuse
from jaxdreamer.layout import name
from jaxdreamer.packing import packed, unpacked
from jaxdreamer.training import Parts
from jaxdreamer.types import Prior, Text, TrainState

STUCK = 'not finite'                   # why the loop goes back
FILE = 'rollbacks.jsonl'
AGAIN = 2 ** 30                        # what a key is folded with is no step that a run comes to
ROWS, EMPTY, FULL = 3, .005, .995      # opacity in so many rows is an alarm below and above these


def numbers(tree: PyTree) -> PyTree:
  """The tree's arrays of floating-point numbers, None in place of all others."""
  return jax.tree.map(lambda x: x if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else None,
                      tree)


def finite(tree: PyTree):
  """Whether all floating-point numbers of a tree are, those that other devices hold too: []."""
  def bad(arrays):
    return sum(jnp.sum(~jnp.isfinite(x)) for x in arrays) if arrays else jnp.int32(0)
  parts, whole = ([x for x in jax.tree.leaves(numbers(tree)) if bool(optim.cut_over(x)) == cut]
                  for cut in (True, False))
  return bad(whole) + optim.across(bad(parts)) == 0


def guarded(local_step: parallel.Step) -> parallel.Step:
  """The same step, but that one after which parameters, optimizer or info (the gradient's norm is
  in it) are not finite keeps parameters and optimizer bit for bit. Info holds `finite`, 1 or 0, and
  zeros where it is 0, so that sums over steps are over those that count."""
  def step(state: TrainState, prior, text, ids):
    after, info = local_step(state, prior, text, ids)
    new, old = (packed(each.params) for each in (after, state))
    ok = finite((new, after.opt, info))
    # no jnp.where, which fuses with the update, and may change its last bits
    pack, opt = jax.lax.cond(ok, lambda new, old: new, lambda new, old: old, (new, after.opt),
                             (old, state.opt))
    params = unpacked(pack, state.params)
    info = jax.tree.map(lambda value: jnp.where(ok, value, 0.), info)
    return (dataclasses.replace(after, params=params, opt=opt),
            info | {'finite': ok.astype(jnp.float32)})
  return step


class Seen(NamedTuple):
  """A step taken apart, in the order in which it is made."""
  params: Any
  prior: Any                           # its weights
  text: Any
  draws: Any                           # t, eps and their weights
  rendering: Any
  z: Any
  eps_hat: Any                         # what the prior itself predicts of each draw
  residual: Any
  info: Any
  gradient: Any
  updated: Any                         # parameters and optimizer after the step


def make_look(parts: Parts, *, axes: parallel.Axes = ('data',)) -> parallel.Step:
  """(state, prior, text, ids) -> (state, Seen), with 1 in place of each tensor of the step that is
  finite on all devices and 0 in place of one that is not. Slower than the step itself."""
  def look(state: TrainState, prior: Prior, text: Text, ids):
    key, step = jax.random.fold_in(state.key, state.step), state.step
    params = parallel.vary(parallel.gathered(state.params), axes)
    prior = parallel.gathered(prior)
    camera, draws, keys = parts.sample(key, ids, step)
    z, _, views, _ = parts.render_latents(params['scene'], prior, text, camera, keys, step)
    rendering, each = views.rendering, len(draws.t) // len(keys)
    views, latent = jax.tree.map(lambda a: jnp.repeat(a, each, 0), (views, z))
    eps_hat = prior.eps(diffuse(latent, draws.t, draws.eps, schedule=prior.schedule), draws.t,
                        views.text, views.camera)
    r, told = train_step.residual(parts.estimator, draws, params['est'], prior, latent, views, step)
    grads, info = parts.gradient(params, prior, text, camera, draws, keys, step)
    mean, _ = parallel.averages(jax.tree.map(lambda x: x + 0. * ids[0], grads), {}, state.params,
                                axes=axes, ordered=False)
    updates, opt = parts.tx.update(mean, state.opt, state.params)
    seen = Seen(params, prior.weights, text, draws, rendering, z, eps_hat, r, told | info, grads,
                (optax.apply_updates(state.params, updates), opt))

    def everywhere(x):
      # what all devices have alike becomes this one's own, as pmin wants
      return jax.lax.pmin(jnp.all(jnp.isfinite(x)).astype(jnp.float32) + 0. * ids[0], axes)
    return state, jax.tree.map(everywhere, numbers(seen))
  return look


def first_bad(seen: Seen) -> str:
  """'rendering/rgb': the first tensor of a step that is not finite; '' where all are."""
  return next((name(path) for path, ok in jax.tree_util.tree_flatten_with_path(seen)[0] if not ok),
              '')


def which(went_back: Sequence[int], step: int) -> int:
  """Which of the times that a run went back led to the checkpoint of `step` that there is, counted
  from 1; 0 where none did, or where it went back further since, and came to `step` anew."""
  number, newest = max(((number, back) for number, back in enumerate(went_back, 1) if back <= step),
                       default=(0, step))
  return number if newest == step else 0


def again(state: TrainState, went_back: Sequence[int]) -> TrainState:
  """`state` of a checkpoint as it goes on: with noise of its own where the run went back to it."""
  if not (number := which(went_back, int(state.step))):
    return state
  fold = jax.jit(jax.random.fold_in, out_shardings=state.key.sharding)
  return dataclasses.replace(state, key=fold(state.key, AGAIN + number))


def key_at(key: Key[Array, ''], went_back: Sequence[int], step: int) -> Key[Array, '']:
  """The key of the state that goes on from `step`, of a run that began with `key`."""
  for back in sorted({*went_back}):
    if back <= step and (number := which(went_back, back)):
      key = jax.random.fold_in(key, AGAIN + number)
  return key


def read(workdir: pathlib.Path, *, begun: bool) -> tuple[int, ...]:
  """The steps that a run was taken back to, in their order. None of one that has not `begun`, that
  is, saved anything: what stands there is of another run, and goes, or will come again."""
  path = workdir / FILE
  if not begun and processes.first():
    path.unlink(missing_ok=True)
  if not begun or not path.exists():
    return ()
  return tuple(json.loads(line)['step'] for line in path.read_text().splitlines())


def write(workdir: pathlib.Path, steps: Sequence[int]):
  """What `read` returns."""
  with files.whole(workdir / FILE) as draft:
    draft.write_text(''.join(json.dumps({'step': step}) + '\n' for step in steps))


def gave_up(bad: str, step: int, *, skipped: int, times: int, good: int) -> str:
  """One line about a run that cannot get past `step`: the tensor that is `bad` first, and the
  newest good checkpoint, 0 where there is none."""
  return (f'steps {step - skipped + 1} to {step} are not finite'
          + (f', and so it was after {times} times back with fresh noise' if times else '')
          + f'; of step {step} {bad or "a sum of what is finite"} is the first; '
          + (f'step {good} is the last good checkpoint' if good else 'nothing good was saved yet')
          + '. The same command would meet this again: lower the learning rate, give config.prior '
          'another dtype, or take another seed, in another --workdir')


class Collapse:
  """Tells once, of rows of metrics, that a scene has become empty, or fills each view; where not
  `watched`, it never does."""

  def __init__(self, *, watched: bool):
    self._left = watched
    self._seen = []

  def __call__(self, row: dict[str, int | float]) -> str:
    self._seen = [*self._seen, row.get('opacity', .5)][-ROWS:]
    least, most = min(self._seen), max(self._seen)
    if not self._left or len(self._seen) < ROWS or EMPTY < most and least < FULL:
      return ''
    self._left = False
    if most <= EMPTY:
      return (f'the opacity of all views has been below {EMPTY} for {ROWS} rows: the scene is '
              'empty, and what is empty learns no more; lower config.regularizers.opacity and '
              'sparsity or the learning rates of config.optim.groups, or start from more with '
              'config.scene')
    return (f'the opacity of all views has been above {FULL} for {ROWS} rows: something stands '
            'before all cameras; raise config.regularizers.opacity or distortion, lower the '
            'learning rates of config.optim.groups, or take config.cameras.distance further away')
