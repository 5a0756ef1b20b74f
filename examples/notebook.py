"""Writes first_object.ipynb from first_object.py, a cell of words and one of code for each part
that a comment begins:   python examples/notebook.py
"""
import json
import pathlib
import re

HERE = pathlib.Path(__file__).parent


def cells(source: str) -> list[dict]:
  """The docstring's first line, and then each comment at the margin, head the code after them."""
  docstring, rest = re.fullmatch(r'"""(.*?)\n.*?"""\n(.*)', source, re.DOTALL).groups()
  made = []
  for part in re.split(r'^(?=# )', f'# {docstring}\n{rest}', flags=re.MULTILINE)[1:]:
    words, code = part.split('\n', 1)
    made.append({'cell_type': 'markdown', 'metadata': {}, 'source': words.removeprefix('# ')})
    made.append({'cell_type': 'code', 'metadata': {}, 'execution_count': None, 'outputs': [],
                 'source': code.strip('\n')})
  return made


def notebook() -> str:
  about = {'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}}
  return json.dumps({'cells': cells((HERE / 'first_object.py').read_text()), 'metadata': about,
                     'nbformat': 4, 'nbformat_minor': 4}, indent=1) + '\n'


if __name__ == '__main__':
  (HERE / 'first_object.ipynb').write_text(notebook())
