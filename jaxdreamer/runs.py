"""A run read back: its scene alone to show it, with its prior only where a generator reads a
prompt; or all of its state, to go on with. And a generator as one file, which needs no workdir:

    save_generator(path, restored, contents)           # the scene's parameters in float16
    config, model, params, step = restore_generator(path)

The file's metadata hold, as JSON, the options that the run used (`config`), what lay in the places
they name (`contents`, see places.py), the prompts that it learned and its step.
"""
import functools
import json
import pathlib
from functools import partial
from typing import Callable, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxdreamer import (
  build,
  build_sample,
  guard,
  options,
  places,
  restoring,
  sampling,
  seeds,
  workdirs,
)
from jaxdreamer.names import CHOICES
from jaxdreamer.objects import Model
from jaxdreamer.training import Training, run_key, state_shapes
from jaxdreamer.types import Camera, Text, TrainState
from jaxdreamer.weights import safetensors_io

SHIPPED = pathlib.Path(__file__).parent / 'assets' / 'generator.safetensors'
TOLD = ('config', 'contents', 'prompts', 'step')         # in the metadata of a generator's file
REMEMBERED = 256                       # texts of prompts that are not embedded twice


class Restored(NamedTuple):
  """`params` are the scene's, as they were at `step`."""
  config: ConfigDict
  model: Model
  params: PyTree
  step: int


class Restorer(NamedTuple):
  """A run that restores pictures."""
  restore: Callable[[np.ndarray], np.ndarray]    # [N, n, n, 3] in [0, 1] -> the same
  side: int                                      # n
  step: int


def restore(workdir: pathlib.Path, *, prior: str = '', tokenizers: Sequence[str] = ()) -> Restored:
  """The run in `workdir` at its newest checkpoint, on one device. The prior is opened when a
  generator first reads a prompt: at `prior`, with `tokenizers`, where they are given, else where it
  was. ValueError where there is no checkpoint, or where other weights lie than the run was trained
  with."""
  config = options.expanded(read_config(workdir))
  params, step = scene_at(workdir, config)
  return Restored(config, run_model(workdir, config, prior, tokenizers), params, step)


def run_model(workdir: pathlib.Path, config: ConfigDict, prior: str,
              tokenizers: Sequence[str]) -> Model:
  """The Model of the run in `workdir`; the rest as in `restore`."""
  return model_of(config, build.phrases(config), workdirs.read_contents(workdir), prior,
                  tokenizers)


def restorer(workdir: pathlib.Path, *, prior: str = '',
             tokenizers: Sequence[str] = ()) -> Restorer:
  """What the run in `workdir` has learned to restore pictures by; the rest as in `restore`."""
  config = options.expanded(read_config(workdir))
  if not restoring.is_one(config):
    raise ValueError(f'{workdir} holds no restorer: its config.scene.name is '
                     f'{config.scene.name!r}')
  places.move(config, prior, tokenizers, known=workdirs.read_contents(workdir))
  model = build.make_prior(config)
  init = build.make_scene(config, prior=model).init
  params, step = scene_at(workdir, config, like=jax.eval_shape(init, seeds.key(config.seed)))
  text = build.embedder(config, model)(config.prompt)
  return Restorer(partial(restoring.restore, model, params, text.plain), restoring.side(model),
                  step)


def scene_at(workdir: pathlib.Path, config: ConfigDict, *, last: int | None = None,
             like: PyTree = None) -> tuple[PyTree, int]:
  """The scene's parameters at the newest checkpoint, of those up to step `last`, and its step;
  shaped as `like`, where the config alone does not tell. ValueError where there is none."""
  from jaxdreamer import checkpoints  # takes long, and a file needs none
  with checkpoints.reader(workdir) as saved:
    found = checkpoints.restore_scene(saved, like or shapes(config), last=last)
  if not found:
    raise none_in(workdir)
  return found


def cameras_at(config: ConfigDict, step: int, went_back: Sequence[int]) -> Camera:
  """The [V] cameras of the run's step `step`; `went_back` as guard.read tells it."""
  key = guard.key_at(run_key(seeds.key(config.seed)), went_back, step)
  key = jax.random.fold_in(key, step)
  place = sampling.make_views(**build_sample.view_options(config))
  return place(key, jnp.arange(config.sampling.views), step)[0]


def save_generator(path: pathlib.Path, restored: Restored, contents: Mapping[str, str]) -> None:
  """Writes a generator to a .safetensors file; `contents` are those of its workdir. ValueError for
  parameters that float16 cannot hold."""
  safetensors_io.save(path, named(restored.params), metadata={
    'config': in_use(restored.config), 'contents': dict(contents),
    'prompts': list(restored.model.prompts), 'step': restored.step})


def restore_generator(path: pathlib.Path, *, prior: str = '',
                      tokenizers: Sequence[str] = ()) -> Restored:
  """What `restore` returns, of a file that `save_generator` wrote; parameters in float32.
  FileNotFoundError or ValueError, one line, where it is missing or holds none."""
  about = told(path)
  config = options.expanded(options.updated(about['config'], place=path, within='metadata'))
  like = shapes(config)
  stored = safetensors_io.load(path, named(like))
  params = jax.tree.unflatten(jax.tree.structure(like), [stored[name] for name in named(like)])
  model = model_of(config, tuple(about['prompts']), about['contents'], prior, tokenizers)
  return Restored(config, model, params, about['step'])


def told(path: pathlib.Path) -> dict:
  """What the metadata of a generator's file say, by the names in TOLD. Errors as
  restore_generator's."""
  found = safetensors_io.read_metadata(path)
  if missing := [name for name in TOLD if name not in found]:
    raise ValueError(f'{path} holds no generator: its metadata lack {", ".join(missing)}; '
                     'python -m jaxdreamer.export --generator writes such files')
  return {name: json.loads(found[name]) for name in TOLD}


def named(params: PyTree) -> dict:
  """{'field.sdf.0': leaf}, in the order of the leaves."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in leaves}


def in_use(config: ConfigDict) -> dict:
  """The options, without those of scenes, priors and estimators that the config does not name:
  what becomes of them is not this run's matter."""
  given = config.to_dict()
  used = lambda of: {name: value for name, value in of.items()
                     if name == of['name'].split(':')[-1] or not isinstance(value, dict)}
  return given | {section: used(given[section]) for section in CHOICES}


def shapes(config: ConfigDict) -> PyTree:
  """The parameters of the config's scene, as shapes."""
  return jax.eval_shape(build.make_scene(config).init, seeds.key(config.seed))


def model_of(config: ConfigDict, phrases: tuple[str, ...], known: Mapping[str, str], prior: str,
             tokenizers: Sequence[str]) -> Model:
  """The Model of a run whose places held what is `known`; the rest as in `restore`."""
  @functools.cache
  def reader():
    places.move(config, prior, tokenizers, known=dict(known))
    return build.make_reader(config)

  @functools.lru_cache(REMEMBERED)
  def embed(prompt: str) -> Text:
    return reader()(prompt)
  return build.model(config, embed, phrases)


def restore_state(workdir: pathlib.Path) -> tuple[ConfigDict, Training, TrainState]:
  """All of the run in `workdir` at its newest checkpoint, on one device. ValueError where there is
  none."""
  from jaxdreamer import checkpoints
  config = read_config(workdir)
  config.mesh.update({'data': 1, 'model': 1})
  mesh = build.make_mesh(config)
  training = build.training(config, mesh)
  shapes = state_shapes(seeds.key(config.seed), training, mesh)
  with checkpoints.reader(workdir) as saved:
    return config, training, checkpoints.restore(saved, shapes)[0]


def read_config(workdir: pathlib.Path) -> ConfigDict:
  """The options of the run in `workdir`. ValueError where it has no checkpoint."""
  config = options.restored(workdir)
  if not workdirs.finished_steps(workdir):
    raise none_in(workdir)
  return places.with_kept_mesh(config, workdir)


def none_in(workdir: pathlib.Path) -> ValueError:
  """The error of a run without a checkpoint."""
  return ValueError(f'{workdir} holds no finished checkpoint: train it first')
