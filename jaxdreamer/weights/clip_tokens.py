"""CLIP's byte-pair tokenizer (Radford et al. 2021) from a published tokenizer folder, by the
tokenizers library.

    tokenize = clip_tokens.load(folder)
    ids = tokenize(['a red mug', ''])            # int32 [2, 77]: start, words, end, padding

A folder holds vocab.json and merges.txt, or tokenizer.json alone, which transformers writes since
its release 5. Text is lower case, long prompts are cut, as in transformers' CLIPTokenizer; here a
warning says what was lost, and words at the end that the caller names are kept. What pads differs
between the models that use it: Stable Diffusion 1.x repeats the end, 2.x writes token 0.
"""
import os
import pathlib
import warnings
from typing import Any, Callable

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from jaxdreamer.weights import safe_files

FILES = ('vocab.json', 'merges.txt', 'tokenizer.json', 'added_tokens.json', 'tokenizer_config.json',
         'special_tokens_map.json')
MAX_JSON = 16 * 2 ** 20  # bytes of tokenizer.json, of which the published ones take 2 to 4 MiB
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
START, END = '<|startoftext|>', '<|endoftext|>'


def load(folder: str | os.PathLike) -> Callable[..., np.ndarray]:
  """(texts, ends=()) -> int32 [N, length]. A text that is too long loses what stands before the one
  of `ends` that it ends in, or its end; one warning for each text, less its end, says what.
  FileNotFoundError names the file that is missing, ValueError one that cannot be read."""
  folder = pathlib.Path(folder)
  try:
    vocabulary, merges, added = words_of(folder)
    bpe = models.BPE(vocabulary, merges, unk_token=END, continuing_subword_prefix='',
                     end_of_word_suffix='</w>')
    # the map wins in transformers
    settings = read(folder / 'tokenizer_config.json') | read(folder / 'special_tokens_map.json')
    special = (START, END, content(settings.get('pad_token')) or END)
    length = min(int(settings.get('model_max_length') or 77), 77)
  except FileNotFoundError:
    raise
  except Exception as error:                            # the library raises Exception itself
    raise ValueError(f'{folder} holds no CLIP tokenizer: '
                     f'{(str(error) or type(error).__name__).splitlines()[0]}') from error
  splitter = splitter_of(bpe)
  start, end, pad = ids = [splitter.token_to_id(token) for token in special]
  if None in ids:
    raise ValueError(f'{folder} holds no CLIP tokenizer: its vocabulary lacks one of {special}: '
                     'start, end, padding')
  splitter.add_special_tokens(list(special))
  splitter.add_tokens([token for token in added if token not in special])
  if moved := [token for token, i in added.items() if splitter.token_to_id(token) != i]:
    raise ValueError(f'{folder}: the tokens {safe_files.listed(moved)} that were added to the '
                     'vocabulary do not follow it')
  room = length - 2

  def tokenize(texts, *, ends=()):
    out, lost, ended = np.full((len(texts), length), pad, np.int32), {}, set()
    for row, text in zip(out, texts):
      said = splitter.encode(text, add_special_tokens=False)
      words = said.ids
      if len(words) > room:
        kept = next((e for e in ends if text.endswith(e)
                     and len(splitter.encode(e, add_special_tokens=False).ids) < room), '')
        own, tail = text[:len(text) - len(kept)], splitter.encode(kept,
                                                                  add_special_tokens=False).ids
        said = splitter.encode(own, add_special_tokens=False)
        if len(said.ids) > room - len(tail):
          lost[own] = min(said.offsets[room - len(tail) - 1][1], lost.get(own, len(own)))
          ended |= {own} if tail else set()
        words = said.ids[:room - len(tail)] + tail
      words = [start, *words, end]
      row[:len(words)] = words
    for own, cut in lost.items():
      count = len(splitter.encode(own, add_special_tokens=False).ids)
      with_end = ', view words among them' if own in ended else ''
      warnings.warn(f'a prompt of {count} tokens, and the text encoder takes {room}{with_end}: it '
                    f'is cut at letter {cut}, after '
                    f'{own[max(0, cut - 40):cut]!r}; lost is {shown(own[cut:])!r}', stacklevel=2)
    return out
  return tokenize


def splitter_of(bpe: models.BPE) -> tokenizers.Tokenizer:
  """The byte pairs behind CLIP's own way to clean a text and to cut it into words."""
  splitter = tokenizers.Tokenizer(bpe)
  splitter.normalizer = normalizers.Sequence([normalizers.NFC(),
                                              normalizers.Replace(tokenizers.Regex(r'\s+'), ' '),
                                              normalizers.Lowercase()])
  splitter.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(tokenizers.Regex(WORDS), 'removed', invert=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False)])
  return splitter


def words_of(folder: pathlib.Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, int]]:
  """The vocabulary, the merges, and the tokens that were added behind the vocabulary, in the order
  of their numbers."""
  vocabulary, merges, whole = (folder / name for name in FILES[:3])
  if vocabulary.is_file() and merges.is_file():
    check(vocabulary, merges)
    table, pairs = models.BPE.read_file(os.fspath(vocabulary), os.fspath(merges))
    added = read(folder / 'added_tokens.json')
  elif whole.is_file():
    told = safe_files.read_json(whole, limit=MAX_JSON)
    model = told.get('model')
    if not isinstance(model, dict) or not isinstance(model.get('vocab'), dict) or model.get(
        'end_of_word_suffix') != '</w>':
      raise ValueError(f"{whole} is of another kind of tokenizer than CLIP's byte pairs")
    table = model['vocab']
    pairs = [tuple(pair.split(' ')) if isinstance(pair, str) else tuple(pair)
             for pair in model['merges']]
    added = {token['content']: token['id'] for token in told.get('added_tokens') or ()}
  else:
    lacks = vocabulary if not vocabulary.is_file() else merges
    raise FileNotFoundError(f'no tokenizer at {lacks}: a model folder holds vocab.json and '
                            'merges.txt, or tokenizer.json, in '
                            'tokenizer/')
  behind = sorted((i, token) for token, i in added.items() if token not in table)
  return table, pairs, {token: i for i, token in behind}


def check(*paths: pathlib.Path) -> None:
  """ValueError where one of the files is a pointer, a web page or the like."""
  for path in paths:
    with safe_files.regular(path) as file:
      if found := safe_files.what_is(file.read(safe_files.HEAD)):
        raise ValueError(f'{path} {found}')


def shown(text: str) -> str:
  """A text as an error may hold it."""
  text = ' '.join(text.split())
  return text if len(text) <= 200 else f'{text[:100]} ... {text[-95:]}'


def read(path: pathlib.Path) -> dict:
  """A JSON file's table; none where there is no file."""
  return safe_files.read_json(path) if path.is_file() else {}


def content(token: Any) -> str | None:
  """A special token is written as its text, or as a table that holds it."""
  return token['content'] if isinstance(token, dict) else token
