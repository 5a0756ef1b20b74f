"""The language of the world: captions as text and as `LENGTH` token ids, and back to the item they
name.

A row of ids is bos, words, eos, then padding; eos has the highest id. `tokens` draws a caption
inside jit, with synonyms and several word orders; `parse` reads all of these, ignores articles,
case, commas and view words, and refuses the rest in one line that says what would be understood.
"""
import difflib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from jaxdreamer.toybox.items import ALONE, BESIDE, COLORS, ON, PATTERNS, RELATIONS, Item
from jaxdreamer.toybox.toys import BASES, KINDS, SOLIDS

NOUNS = dict(sphere=('sphere', 'ball', 'globe'), cube=('cube', 'block', 'box'),
             cylinder=('cylinder', 'drum', 'tube'),
             torus=('torus', 'ring', 'donut', 'doughnut'), capsule=('capsule', 'pill'),
             mug=('mug', 'cup'),
             house=('house', 'cottage'), castle=('castle', 'fort'), car=('car', 'automobile'),
             truck=('truck', 'lorry'),
             chair=('chair', 'seat'), table=('table', 'desk'), mushroom=('mushroom', 'toadstool'),
             rocket=('rocket', 'spaceship'), airplane=('airplane', 'plane', 'aeroplane'),
             boat=('boat', 'sailboat', 'ship'), duck=('duck', 'bird'), bear=('bear', 'teddy'))
NOUNS = {k: NOUNS.get(k, (k,)) for k in KINDS}
COLOR_NAMES = dict(purple=('purple', 'violet'), cyan=('cyan', 'turquoise'), grey=('grey', 'gray'))
COLOR_NAMES = {c: COLOR_NAMES.get(c, (c,)) for c in COLORS}
PATTERN_NAMES = dict(plain=(), striped=('striped', 'stripy'),
                     checkered=('checkered', 'checked', 'chequered'),
                     spotted=('spotted', 'dotted'))
PATTERN_NOUNS = dict(plain=(), striped=('stripes',), checkered=('checks',),
                     spotted=('spots', 'dots'))
VIEW_WORDS = ('front', 'side', 'back', 'overhead')
RELATION_PHRASES = {('on',): ON, ('on', 'top', 'of'): ON, ('beside',): BESIDE,
                    ('next', 'to'): BESIDE,
                    # minus: the second stands on the first
                    ('under',): -ON, ('below',): -ON, ('beneath',): -ON}
FILLERS = ('a', 'an', 'the', 'in', 'with', 'wearing', 'hat')

LENGTH = 16


def _vocabulary():
  groups = [FILLERS, *NOUNS.values(), *COLOR_NAMES.values(), *PATTERN_NAMES.values(),
            *PATTERN_NOUNS.values(),
            *RELATION_PHRASES, VIEW_WORDS, ('view',)]
  return ('<pad>', '<bos>', *dict.fromkeys(w for g in groups for w in g), '<eos>')


VOCABULARY = _vocabulary()
ID = {w: i for i, w in enumerate(VOCABULARY)}
PAD, BOS, EOS = ID['<pad>'], ID['<bos>'], ID['<eos>']
MEANING = {w: (slot, i)
           for slot, names in (('kind', NOUNS), ('color', COLOR_NAMES), ('pattern', PATTERN_NAMES),
                               ('pattern', PATTERN_NOUNS))
           for i, row in enumerate(names.values()) for w in row}
NONE = -1                                        # an empty place in a caption, closed up at the end


def _choices(rows):
  """[n, 6] ids: the first word of a row half of the time, the others in turn; NONE for an empty
  row."""
  def spread(row):
    first, rest = row[:1] or (None,), row[1:] or row[:1] or (None,)
    return [first[0] if i % 2 == 0 else rest[i // 2 % len(rest)] for i in range(6)]
  return np.array([[ID.get(w, NONE) for w in spread(row)] for row in rows])


NOUN_IDS, COLOR_IDS = _choices(NOUNS.values()), _choices(COLOR_NAMES.values())
PATTERN_IDS, PLURAL_IDS = _choices(PATTERN_NAMES.values()), _choices(PATTERN_NOUNS.values())
# the last row, at -1, says nothing
VIEW_IDS = np.array([[ID[w], ID['view']] for w in VIEW_WORDS] + [[NONE, NONE]])
ON_IDS = np.array([[ID['on'], NONE, NONE], [ID['on'], ID['top'], ID['of']],
                   [ID['under'], NONE, NONE],
                   [ID['below'], NONE, NONE], [ID['beneath'], NONE, NONE]])
BESIDE_IDS = np.array([[ID['beside'], NONE, NONE], [ID['next'], ID['to'], NONE]])
IS_VOWEL = np.array([w[0] in 'aeiou' for w in VOCABULARY])


def _phrase(dice, article, kind, color, pattern):
  """[8] ids with gaps: one toy in one of the forms it may be named by."""
  noun, tint = (jnp.asarray(t)[i, d % 6] for t, i, d in ((NOUN_IDS, kind, dice[0]),
                                                         (COLOR_IDS, color, dice[1])))
  texture, plural = (jnp.asarray(t)[pattern, dice[2] % 6] for t in (PATTERN_IDS, PLURAL_IDS))
  with_ = jnp.where(pattern > 0, ID['with'], NONE)
  hat = lambda verb: [article, noun, verb, ID['a'], texture, tint, ID['hat'], NONE]
  forms = [[article, texture, tint, noun] + [NONE] * 4, [article, tint, texture, noun] + [NONE] * 4,
           [article, noun, ID['in'], texture, tint] + [NONE] * 3, [article, noun, texture, tint]
           + [NONE] * 4,
           [article, tint, noun, with_, plural] + [NONE] * 3, hat(ID['with']), hat(ID['wearing'])]
  plain = jnp.array([0, 0, 0, 0, 0, 1, 1, 2, 3, 4])[dice[3] % 10]
  dressed = jnp.array([5, 5, 5, 6, 6, 0])[dice[3] % 6]
  form = jnp.where(kind == KINDS.index('snowman'), dressed, plain)
  return jnp.array([jnp.stack([jnp.asarray(w) for w in f]) for f in forms])[form]


def tokens(key: Key[Array, ''], item: Item, view: Int[Array, '']) -> Int[Array, 'L']:
  """A random caption; view -1 none, 0 front, 1 side, 2 back, 3 overhead. Runs inside jit."""
  dice = jax.random.randint(key, (10,), 0, 2520)
  article = jnp.array([ID['a']] * 6 + [ID['the'], NONE, NONE])[dice[8] % 9]
  first, second = (_phrase(d, article, item.kind[i], item.color[i], item.pattern[i])
                   for i, d in enumerate(dice[:8].reshape(2, 4)))
  on, beside = jnp.asarray(ON_IDS)[dice[9] % 5], jnp.asarray(BESIDE_IDS)[dice[9] % 2]
  between = jnp.where(item.relation == ON, on, beside)
  is_pair, swap = item.relation != ALONE, (item.relation == ON) & (dice[9] % 5 >= 2)
  a, b = jnp.where(swap, second, first), jnp.where(swap, first, second)
  rest = jnp.where(is_pair, jnp.concatenate([between, b]), NONE)
  ids = jnp.concatenate([jnp.array([BOS]), a, rest, jnp.asarray(VIEW_IDS)[view], jnp.array([EOS])])
  ids = ids[jnp.argsort(ids == NONE, stable=True)][:LENGTH]
  following = jnp.append(ids[1:], NONE)
  ids = jnp.where((ids == ID['a']) & jnp.asarray(IS_VOWEL)[following], ID['an'], ids)
  return jnp.where(ids == NONE, PAD, ids).astype(jnp.int32)


def caption(item: Item) -> str:
  """The canonical caption."""
  def phrase(i):
    kind, color = KINDS[int(item.kind[i])], tuple(COLORS)[int(item.color[i])]
    texture = PATTERNS[int(item.pattern[i])] + ' ' if int(item.pattern[i]) else ''
    adjectives = f'{texture}{color}'
    a = lambda words: ('an ' if words[0] in 'aeiou' else 'a ') + words
    return a(f'snowman with {a(adjectives)} hat' if kind == 'snowman' else f'{adjectives} {kind}')
  if int(item.relation) == ALONE:
    return phrase(0)
  return f'{phrase(0)} {RELATIONS[int(item.relation)]} {phrase(1)}'


def words(ids: Int[Array, 'L'] | np.ndarray) -> str:
  """The text of a row of token ids."""
  return ' '.join(VOCABULARY[int(i)] for i in ids if int(i) not in (PAD, BOS, EOS))


def _split(text):
  """Known lower-case words of a caption; ValueError names the first unknown one and its
  neighbors."""
  out = ''.join(c if c.isalnum() else ' ' for c in text.lower()).split()
  for w in out:
    if w not in ID:
      near = difflib.get_close_matches(w, VOCABULARY[2:-1], n=3, cutoff=.6)
      hint = f'did you mean {" or ".join(near)}?' if near else f'known things: {", ".join(KINDS)}'
      raise ValueError(f'unknown word {w!r} in {text!r}; {hint}')
  return out


def tokenize(text: str) -> np.ndarray:
  """[LENGTH] int32 ids of a caption; '' is the empty prompt."""
  ids = [BOS, *(ID[w] for w in _split(text)), EOS]
  if len(ids) > LENGTH:
    raise ValueError(f'{text!r} has {len(ids) - 2} words; at most {LENGTH - 2} fit')
  return np.array(ids + [PAD] * (LENGTH - len(ids)), np.int32)


def _toy(found, text):
  """(kind, color, pattern) of one noun phrase."""
  got = {}
  for w in found:
    if w in MEANING:
      slot, i = MEANING[w]
      if got.setdefault(slot, i) != i:
        raise ValueError(f'two {slot}s in {" ".join(found)!r}; {FORMS}')
    elif w not in FILLERS:
      raise ValueError(f'{w!r} is out of place in {text!r}; {FORMS}')
  if 'kind' not in got:
    raise ValueError(f'no toy in {" ".join(found)!r}; name one of {", ".join(KINDS)}')
  if 'color' not in got:
    raise ValueError(f'no color for the {KINDS[got["kind"]]} in {text!r}; name one of '
                     f'{", ".join(COLORS)}')
  return got['kind'], got['color'], got.get('pattern', 0)


FORMS = ("understood: 'a red car', 'a striped blue mug', 'a snowman with a green hat', 'a red cone "
         "on a blue cube', "
         "'a red cube under a blue ball', 'a pink egg beside a grey pyramid'")


def parse(text: str) -> Item:
  """The item a caption names, in NumPy; view words are ignored. ValueError says in one line what is
  not understood."""
  found = _split(text)
  if found[-1:] == ['view'] and found[-2:-1] and found[-2] in VIEW_WORDS:
    found = found[:-2]
  places = [(i, phrase) for phrase in sorted(RELATION_PHRASES, key=len, reverse=True)
            for i in range(len(found))
            if tuple(found[i:i + len(phrase)]) == phrase]
  if not places:
    kind, color, pattern = _toy(found, text)
    return _item((kind, 0), ALONE, (color, 0), (pattern, 0))
  at, phrase = places[0]
  relation, ends = RELATION_PHRASES[phrase], [found[:at], found[at + len(phrase):]]
  (kind_a, color_a, pattern_a), (kind_b, color_b, pattern_b) = (
    _toy(end, text) for end in (ends if relation > 0 else ends[::-1]))
  for kind in (kind_a, kind_b):
    if kind >= len(SOLIDS):
      raise ValueError(f'no {KINDS[kind]} in pairs: they are made of {", ".join(SOLIDS)}')
  if abs(relation) == ON and KINDS[kind_b] not in BASES:
    raise ValueError(f'no {KINDS[kind_b]} below another solid: bases are {", ".join(BASES)}')
  return _item((kind_a, kind_b), abs(relation), (color_a, color_b), (pattern_a, pattern_b))


def _item(kind, relation, color, pattern):
  return Item(*(np.array(v, np.int32) for v in (kind, relation, color, pattern)))


def names_a_toy(text: str) -> bool:
  """Whether the toybox knows what a prompt means, and so its exact shape."""
  try:
    parse(text)
  except ValueError:
    return False
  return True
