"""Where a config finds its files, and which files they are: a run is made of their content,
wherever they lie.

    contents(config)         # {'prior.path': 'sha256 1f3a...'}: what stands for each option that
                             names a place
"""
import hashlib
import json
import os
import pathlib
from typing import Any, Sequence

from jaxdreamer import files, processes, prompts, workdirs
from jaxdreamer.meshes import files as meshes
from jaxdreamer.priors import toybox
from jaxdreamer.scenes import mesh
from jaxdreamer.toybox import sd
from jaxdreamer.weights import (
  clip_tokens,
  diffusers_folder,
  hub,
  model_shapes,
  safe_files,
  tensor_files,
)

TOKENIZERS = ('tokenizer', 'tokenizer_2')
# models that are shipped, by what config.prior.path calls them
NAMED = {'toybox-sd': sd.SHIPPED}
GEOMETRY = 'geometry.safetensors'             # in the workdir of a run that colors a mesh
ESTIMATED = ('depth', 'normals')              # of config.estimator.ssd


def weights_at(section: Any) -> str:
  """Where config.prior finds its weights: its path, which may be a name of NAMED, else what it
  asks the hub for, else '', the shipped ones."""
  if section.hub and not section.path:
    return hub.fetch(section.hub)
  return os.fspath(NAMED.get(section.path, section.path))


def check_named(section: Any) -> None:
  """FileNotFoundError where config.prior asks for a model of NAMED that is not here."""
  folder = NAMED.get(section.path)
  if folder and not (folder / diffusers_folder.INDEX).is_file():
    raise FileNotFoundError(f'config.prior.path={section.path!r}: no model at {folder}; python -m '
                            'jaxdreamer.toybox.train_sd makes it, or give the path of yours')


def contents(config: Any) -> dict[str, str]:
  """What stands for the options of `config` that name places, by the content of what lies there;
  for those that are not given, or lead nowhere, nothing does."""
  found, given = {}, config.to_dict()
  prior, estimators, many = given.get('prior', {}), given.get('estimator', {}).get(
      'ssd', {}), given.get('corpus', {})
  if prior:
    path = weights_at(config.prior)
    if prior['name'] == 'toybox':
      path = path or os.fspath(toybox.SHIPPED)
    if path != model_shapes.SHAPES and (mark := mark_of(path)):
      found |= {'prior.path': mark} | ({'prior.hub': ''} if 'hub' in prior else {})
    if mark := mark_of(prior.get('lora', '')):
      found['prior.lora'] = mark
    own = prior.get(prior['name'], {})
    found |= {f'prior.{prior["name"]}.{name}': mark for name in TOKENIZERS
              if (mark := mark_of(own.get(name, '')))}
  if given.get('estimator', {}).get('name') == 'ssd':
    found |= {f'estimator.ssd.{name}': mark for name in ESTIMATED
              if (mark := mark_of(estimators.get(name, '')))}
  if given.get('start') and (mark := mark_of_run(given['start'])):
    found['start'] = mark
  if colors_a_mesh(config):
    found['scene.mesh.path'] = meshes.mark(meshes.read(config.scene.mesh.path, option=mesh.OPTION))
  if os.path.isfile(many.get('path', '')):
    told = json.dumps(prompts.read_file(many['path'], option='config.corpus.path'))
    found['corpus.path'] = f'sha256 {hashlib.sha256(told.encode()).hexdigest()}'
  return found | ({'corpus.store': ''} if many.get('store') else {})


def mark_of(path: str) -> str:
  """The SHA-256 of a file, or of those of the files in a folder that decide its numbers: a model's
  weights, else all weights, else a tokenizer's words. '' where there are none."""
  place = pathlib.Path(path)
  if not path or not place.exists():
    return ''
  if place.is_file():
    return f'sha256 {safe_files.known_sha256(place)}'
  if (place / diffusers_folder.INDEX).is_file():
    parts = diffusers_folder.open_model(place)
    files = [file for part in parts.values() if isinstance(part, diffusers_folder.Part)
             for file in tensor_files.files_of(part.file)]
  else:
    files = sorted(place.rglob('*.safetensors')) or [place / name for name in clip_tokens.FILES
                                                     if (place / name).is_file()]
  named = [[file.relative_to(place).as_posix(), safe_files.known_sha256(file)] for file in files]
  return f'sha256 {hashlib.sha256(json.dumps(named).encode()).hexdigest()}' if named else ''


def mark_of_run(workdir: str) -> str:
  """Which run lies in a workdir, and its newest step; '' where none does."""
  place = workdirs.newest_stage(pathlib.Path(workdir))
  steps = workdirs.finished_steps(place)
  if not steps:
    return ''
  return f'{json.loads((place / "run.json").read_text())["fingerprint"]} at step {steps[-1]}'


def move(config: Any, prior: str, tokenizers: Sequence[str], *, known: dict[str, str]) -> None:
  """Lets the config of a run find its prior's weights at `prior` and its tokenizers in these
  folders, where they are given.
  ValueError where there are others than the run was trained with, as far as that is `known`."""
  if prior:
    config.prior.update({'path': prior, 'hub': ''})
  own = config.prior.get(config.prior.name)
  for name, place in zip(TOKENIZERS, tokenizers):
    if not place:
      continue
    if name not in (own or {}):
      raise ValueError(f'--{name}={place}: config.prior.name={config.prior.name!r} of this run '
                       'takes none')
    own[name] = place
  found = contents(config)
  if 'prior.path' in known and 'prior.path' not in found:
    raise FileNotFoundError(f'config.prior.path={config.prior.path!r} of this run leads nowhere: '
                            'give --prior, where its weights '
                            f'({known["prior.path"]}) are now')
  for option in ('prior.path', 'prior.lora'):
    if option in known and option in found and known[option] != found[option]:
      place = config.prior[option.partition('.')[2]]
      raise ValueError(f'config.{option}={place!r} holds {found[option]}, and this run was trained '
                       f'with {known[option]}: give '
                       '--prior, the place of those')


def colors_a_mesh(config: Any) -> bool:
  """Whether its scene is a mesh of the user's own."""
  return 'scene' in config and config.scene.name == 'mesh'


def keep_mesh(config: Any, workdir: pathlib.Path) -> None:
  """Leaves the mesh that a run colors in its workdir; of several processes the first does."""
  if colors_a_mesh(config) and processes.first():
    with files.whole(workdir / GEOMETRY) as draft:
      meshes.save(draft, meshes.read(config.scene.mesh.path, option=mesh.OPTION))


def with_kept_mesh(config: Any, workdir: pathlib.Path, *, moved: bool = False) -> Any:
  """The config with the mesh that `keep_mesh` left in the workdir, if any; `moved`: only where
  nothing is left at its own path."""
  kept = workdir / GEOMETRY
  if colors_a_mesh(config) and kept.exists() and not (
      moved and os.path.exists(config.scene.mesh.path)):
    config = config.copy_and_resolve_references()
    config.scene.mesh.path = os.fspath(kept)
  return config
