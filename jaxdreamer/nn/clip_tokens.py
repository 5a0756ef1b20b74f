"""CLIP's byte-pair tokenizer (Radford et al. 2021) from a published tokenizer folder, by the tokenizers library.

    tokenize = clip_tokens.load(folder)
    ids = tokenize(['a red mug', ''])            # int32 [2, 77]: start, words, end, padding

Text is lower case, long prompts are cut, as in transformers' CLIPTokenizer; here a warning says where. What pads differs between
the models that use it: Stable Diffusion 1.x repeats the end, 2.x writes token 0.
"""
import json
import os
import pathlib
import warnings
from typing import Callable

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
START, END = '<|startoftext|>', '<|endoftext|>'


def load(folder: str | os.PathLike) -> Callable[[list[str]], np.ndarray]:
  """texts -> int32 [N, length]. FileNotFoundError names the file that is missing, ValueError one that cannot be read."""
  folder = pathlib.Path(folder)
  vocabulary, merges = folder / 'vocab.json', folder / 'merges.txt'
  for path in (vocabulary, merges):
    if not path.is_file():
      raise FileNotFoundError(f'no tokenizer at {path}: a model folder holds vocab.json and merges.txt in tokenizer/')
  try:
    bpe = models.BPE.from_file(str(vocabulary), str(merges), unk_token=END, continuing_subword_prefix='', end_of_word_suffix='</w>')
    settings = read(folder / 'special_tokens_map.json') | read(folder / 'tokenizer_config.json')
  except Exception as error:                            # the library raises Exception itself
    raise ValueError(f'{folder} holds no CLIP tokenizer: {str(error).splitlines()[0]}') from error
  splitter = tokenizers.Tokenizer(bpe)
  splitter.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r'\s+'), ' '),
                                              normalizers.Lowercase()])
  splitter.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(tokenizers.Regex(WORDS), 'removed', invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
  special = (START, END, content(settings.get('pad_token', END)))
  start, end, pad = ids = [splitter.token_to_id(token) for token in special]
  if None in ids:
    raise ValueError(f'{vocabulary} lacks one of {special}: start, end, padding')
  splitter.add_special_tokens(list(special))
  length = min(int(settings.get('model_max_length', 77)), 77)

  def tokenize(texts):
    out = np.full((len(texts), length), pad, np.int32)
    for row, text in zip(out, texts):
      said = splitter.encode(text, add_special_tokens=False)
      if len(said.ids) > length - 2:
        kept = said.offsets[length - 3][1]
        warnings.warn(f'a prompt of {len(said.ids)} tokens, and the text encoder takes {length - 2}: it is cut at letter {kept}, '
                      f'after {text[max(0, kept - 40):kept]!r}', stacklevel=2)
      ids = [start, *said.ids[:length - 2], end]
      row[:len(ids)] = ids
    return out
  return tokenize


def read(path: pathlib.Path) -> dict:
  """A JSON file's table; none where there is no file."""
  return json.loads(path.read_text()) if path.is_file() else {}


def content(token: str | dict) -> str:
  """A special token is written as its text, or as a table that holds it."""
  return token['content'] if isinstance(token, dict) else token
