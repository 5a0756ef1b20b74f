"""Pages of one file: a template beside this module, and what goes into it. Whatever goes in is
escaped; data for a script passes through `tojson`, which no text of its own can end."""
import base64
import functools


@functools.cache
def _templates():
  import jinja2
  made = jinja2.Environment(loader=jinja2.PackageLoader('jaxdreamer.outputs', ''), autoescape=True,
                            undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
  made.policies['json.dumps_kwargs'] = {'allow_nan': False}        # nan is no JSON
  return made


def render(template: str, **fields) -> str:
  """The page of a template, 'report.html', with its fields."""
  return _templates().get_template(template).render(fields)


def base64_of(data: bytes) -> str:
  """Bytes as the text of a data: address."""
  return base64.b64encode(data).decode()


def data_url(kind: str, data: bytes) -> str:
  """'image/png', bytes -> an address that holds them."""
  return f'data:{kind};base64,{base64_of(data)}'
