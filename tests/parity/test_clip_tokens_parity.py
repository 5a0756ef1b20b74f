"""The tokenizer is transformers': same ids for any text, from the same files."""
import numpy as np
import published
import pytest

from jaxdreamer.weights import clip_tokens

transformers = pytest.importorskip('transformers')
TEXTS = ['a red mug', 'A  Red\tMUG\n', '', "the mug's 12 reds, isn't it?!", 'naïve café №5 — 红色',
         'red' * 60, '  ',
         '<|endoftext|> mug', 'a.b_c-d/e', 'ﬁne ½']


@pytest.mark.parametrize('pad', ['<|endoftext|>', '!'])
def test_ids_are_those_of_transformers(tmp_path, pad):
  published.write_tokenizer(tmp_path, pad=pad)
  theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path, pad_token=pad)
  expected = theirs(TEXTS, padding='max_length', max_length=77, truncation=True)['input_ids']
  with pytest.warns(UserWarning, match='cut'):
    ids = clip_tokens.load(tmp_path)(TEXTS)
  np.testing.assert_array_equal(ids, expected)
