"""CLIP's tokenizer over the toybox's words, as files, and captions as it writes them, inside jit
too. `python -m jaxdreamer.toybox.sd_text` learns the shipped one anew, for which all that was
trained with it must be trained again."""
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jaxtyping import Array, Int, Key
from tokenizers import models, pre_tokenizers, trainers

from jaxdreamer import files
from jaxdreamer.toybox import language
from jaxdreamer.weights import clip_tokens

SHIPPED = pathlib.Path(__file__).parents[1] / 'assets' / 'toybox_sd' / 'tokenizer'
LENGTH = 24                                      # tokens of a text
COMMA = ','                                      # before the words of a view


def byte_letters() -> list[str]:
  """The printable stand-ins of the 256 bytes, in the order of CLIP's vocabulary."""
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  return [chr(b) for b in shown] + [chr(256 + i) for i in range(256 - len(shown))]


def learned() -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
  """CLIP's vocabulary for the toybox, and its merges: every word of the toybox becomes one token,
  any other text its letters or pieces. Pairs that are as frequent come in another order each time
  that it learns: a model must be asked by the tokens that it was trained with."""
  letters = byte_letters()
  learner = tokenizers.Tokenizer(models.BPE(end_of_word_suffix='</w>'))
  learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  learner.train_from_iterator(
      [' '.join(language.VOCABULARY[2:-1])],
      trainers.BpeTrainer(vocab_size=10_000, min_frequency=1, end_of_word_suffix='</w>',
                          show_progress=False))
  told = json.loads(learner.to_str())['model']['merges']
  merges = tuple(tuple(pair.split(' ')) if isinstance(pair, str) else tuple(pair) for pair in told)
  words = [*letters, *(f'{letter}</w>' for letter in letters), *map(''.join, merges),
           clip_tokens.START, clip_tokens.END]
  return {word: i for i, word in enumerate(dict.fromkeys(words))}, merges


def learn(folder: pathlib.Path) -> None:
  """Writes CLIPTokenizer's four files, of a vocabulary that is learned anew."""
  ids, merges = learned()
  special = {'bos_token': clip_tokens.START, 'eos_token': clip_tokens.END,
             'unk_token': clip_tokens.END, 'pad_token': clip_tokens.END}
  folder.mkdir(parents=True, exist_ok=True)
  files.write_json(folder / 'vocab.json', ids)
  (folder / 'merges.txt').write_text(''.join(f'{line}\n' for line in (
      '#version: 0.2', *map(' '.join, merges))), encoding='utf-8')
  files.write_json(folder / 'special_tokens_map.json', special)
  files.write_json(folder / 'tokenizer_config.json', special | {
    'tokenizer_class': 'CLIPTokenizer', 'model_max_length': LENGTH, 'do_lower_case': True})


@functools.cache
def vocabulary() -> dict[str, int]:
  """Token of each word and piece, of the shipped tokenizer, which all trainings share."""
  return json.loads((SHIPPED / 'vocab.json').read_text(encoding='utf-8'))


def write(folder: pathlib.Path) -> None:
  """The shipped tokenizer's files."""
  folder.mkdir(parents=True, exist_ok=True)
  for path in sorted(SHIPPED.iterdir()):
    (folder / path.name).write_bytes(path.read_bytes())      # the folder may be the shipped one


@functools.cache
def _table() -> np.ndarray:
  """Token of each word of the toybox's vocabulary."""
  return np.array([vocabulary().get(f'{word}</w>', vocabulary()[clip_tokens.END])
                   for word in language.VOCABULARY], np.int32)


def tokens(key: Key[Array, ''], item: language.Item, view: Int[Array, '']) -> Int[Array, 'L']:
  """A random caption as the tokenizer has it, 'a red car, front view'; view -1 none. Runs inside
  jit."""
  end = vocabulary()[clip_tokens.END]
  said = language.tokens(key, item, jnp.int32(-1))
  n = jnp.sum((said != language.PAD) & (said != language.EOS))     # start and words
  ids = jnp.full(LENGTH, end).at[:language.LENGTH].set(
      jnp.where(jnp.arange(language.LENGTH) < n, jnp.asarray(_table())[said], end))
  ids = ids.at[0].set(vocabulary()[clip_tokens.START])
  view_ids = jnp.asarray(_table())[jnp.asarray(language.VIEW_IDS)[view]]
  tail = jnp.array([vocabulary()[f'{COMMA}</w>'], *view_ids])
  return jnp.where(view < 0, ids, jax.lax.dynamic_update_slice(ids, tail, (n,))).astype(jnp.int32)


def tokenize(texts: list[str]) -> np.ndarray:
  """Captions as `tokens` writes them, [N, LENGTH] int32: words that are not the toybox's are
  refused by language.parse before."""
  end = vocabulary()[clip_tokens.END]
  ids = np.full((len(texts), LENGTH), end, np.int32)
  for row, text in zip(ids, texts):
    words = [clip_tokens.START, *(f'{word}</w>' for word in
                                  text.replace(COMMA, f' {COMMA}').split())]
    row[:len(words)] = [vocabulary()[word] for word in words]
  return ids


def blank() -> Int[Array, 'L']:
  """The empty text."""
  return jnp.asarray(tokenize([''])[0])


if __name__ == '__main__':
  learn(SHIPPED)
