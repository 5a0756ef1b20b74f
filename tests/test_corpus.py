"""Many prompts: files of them, the order in which a run takes them, and their embeddings on
disk."""
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxdreamer import corpus, prompts
from jaxdreamer.toybox import compositions, world
from jaxdreamer.types import Text

NAMES = tuple(f'prompt {i}' for i in range(150))


def embed(prompt, scale=1.):
  """Rows that say which prompt they are of."""
  if prompt == 'bad':
    raise ValueError('unknown word')
  value = scale * float(prompt.split()[1] if ' ' in prompt else 7)
  row = jnp.full((3, 2), value)
  return Text(views=jnp.stack([row + v / 8 for v in range(4)]), plain=row, null=jnp.zeros((3, 2)),
              negative=jnp.ones((3, 2)),
              pooled=row[0])


@pytest.mark.parametrize(('name', 'content', 'said'), [
  ('a.txt', b'one\ntwo\n\nthree\n', 'line 3 is empty'), ('a.txt', b'one\ntwo\none\n',
                                                         "line 3 repeats line 1, 'one'"),
  ('a.txt', b'one\ntw\xff\n', 'line 2 is no UTF-8'), ('a.txt', b'', 'holds no prompt'),
  ('a.json', b'["one", 3]', 'entry 2 is no text'), ('a.json', b'{"a": 1}', 'holds a JSON dict'),
  ('a.txt', 'one\ngrün\n'.encode('latin-1'), r'line 2 is no UTF-8 \(it seems to be latin-1'),
  ('a.txt', 'one\ntwo\n“three”\n'.encode('cp1252'), r'line 3 is no UTF-8 \(it seems to be '
   r'Windows-1252'),
  *((f'a.{kind}', '["one"]'.encode(code), rf'line 1 is no UTF-8 \(it seems to be '
     rf'{code[:6].upper()}')
    for kind in ('txt', 'json') for code in ('utf-16', 'utf-16-le', 'utf-16-be', 'utf-32',
                                             'utf-32-le')),
  ('a.json', b'["one"', 'is no JSON'), ('a.json', b'["one", " one"]', 'entry 2 repeats entry 1')])
def test_a_bad_file_of_prompts_is_refused_with_its_line(tmp_path, name, content, said):
  (tmp_path / name).write_bytes(content)
  with refused('--prompts: .*' + said):
    prompts.read_file(tmp_path / name, option='--prompts')


def test_text_and_json_say_the_same(tmp_path):
  (tmp_path / 'a.txt').write_text('a red cube\nein grüner Würfel\n', encoding='utf-8')
  (tmp_path / 'a.json').write_text('["a red cube", "ein grüner Würfel"]', encoding='utf-8')
  assert prompts.read_file(tmp_path / 'a.txt', option='x') == prompts.read_file(tmp_path / 'a.json',
                                                                                option='x') == (
'a red cube', 'ein grüner Würfel')
  with pytest.raises(FileNotFoundError, match='config.corpus.path='):
    prompts.read_file(tmp_path / 'none.txt', option='config.corpus.path')


def test_a_byte_order_mark_is_no_letter_of_a_prompt(tmp_path):
  for name, content in (('a.txt', 'a cat\r\na dog\r\n'), ('a.json', '["a cat", "a dog"]'),
                        ('b.txt', 'a cat\n\ufeffa dog\n')):
    (tmp_path / name).write_bytes(content.encode('utf-8-sig'))
    assert prompts.read_file(tmp_path / name, option='x') == ('a cat', 'a dog')
  (tmp_path / 'a.txt').write_text('a cat\n\n a dog \n', encoding='utf-8-sig')
  assert prompts.read_file(tmp_path / 'a.txt', option='x', blank=True) == ('a cat', 'a dog')


def test_an_epoch_takes_every_prompt_once_and_a_step_does_not_depend_on_those_before():
  seen = np.concatenate([prompts.chosen(3, step, count=10, each=4) for step in range(10)])
  for epoch in range(4):
    assert sorted(seen[10 * epoch:10 * epoch + 10]) == list(range(10))
  assert (seen[:10] != seen[10:20]).any()
  prompts.epoch_order.cache_clear()
  np.testing.assert_array_equal(prompts.chosen(3, 7, count=10, each=4), seen[28:32])
  assert (prompts.chosen(4, 7, count=10, each=4) != seen[28:32]).any()


def test_the_store_gives_back_what_was_embedded(tmp_path):
  store = corpus.open_store(tmp_path, NAMES, embed, say=lambda _: None)
  text = store.read([149, 0, 63])
  for i, prompt in enumerate(('prompt 149', 'prompt 0', 'prompt 63')):
    want = embed(prompt)
    for name in ('views', 'plain', 'null', 'negative', 'pooled'):
      np.testing.assert_allclose(getattr(text, name)[i], getattr(want, name), rtol=2 ** -8,
                                 err_msg=name)


def test_a_pass_that_was_cut_short_goes_on_where_it_stopped(tmp_path):
  asked = []
  def slow(prompt):
    asked.append(prompt)
    if len(asked) == 100:
      raise KeyboardInterrupt
    return embed(prompt)
  with pytest.raises(KeyboardInterrupt):
    corpus.open_store(tmp_path, NAMES, slow, say=lambda _: None)
  asked[:] = ['already'] * 200
  store = corpus.open_store(tmp_path, NAMES, slow, say=lambda _: None)
  assert asked[200:] == [NAMES[0], *NAMES[corpus.BLOCK:]]
  np.testing.assert_allclose(store.read(range(150)).plain[:, 0, 0], np.arange(150.), rtol=2 ** -8)


def test_a_store_of_other_prompts_or_other_weights_and_a_refused_prompt_are_named(tmp_path):
  corpus.open_store(tmp_path / 'a', NAMES[1:4], embed)
  with pytest.raises(ValueError, match='other prompts'):
    corpus.open_store(tmp_path / 'a', NAMES[1:5], embed)
  with pytest.raises(ValueError, match=r"other weights \(its 'views' of 'prompt 1' differ\)"):
    corpus.open_store(tmp_path / 'a', NAMES[1:4], lambda prompt: embed(prompt, scale=1.5))
  with pytest.raises(ValueError, match="prompt 2 of 2, 'bad': unknown word"):
    corpus.open_store(tmp_path / 'b', ('prompt 1', 'bad'), embed)


def test_the_toyboxs_held_out_captions_share_no_composition_with_the_trained_ones():
  trained, held = compositions.captions()
  assert len(trained) >= 300 and len(held) >= 60 and len({*trained, *held}) == len(trained) + len(
      held)
  def parts(caption):
    item = world.parse(caption)
    pair = int(item.relation) == world.ON
    return (pair, *map(int, item.kind if pair else (item.kind[0], item.color[0])))
  assert not {parts(c) for c in trained} & {parts(c) for c in held}
  kinds, colors = ({int(getattr(world.parse(c), name)[0]) for c in trained}
                   for name in ('kind', 'color'))
  assert kinds == set(range(len(world.KINDS))) and colors == set(range(len(world.COLORS)))
