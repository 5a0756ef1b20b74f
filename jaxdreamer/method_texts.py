"""A method as a text: an estimator's name, then options, as in 'ssd sampling.draws=4
estimator.ssd.phi=constant,depth'. What it does not name is as in the config, but for sampling,
which starts as SDS was published: independent, one draw a render."""
import ast
import json
import re
import shlex

from ml_collections import ConfigDict

from jaxdreamer import names, schedules

PUBLISHED = {'design': 'independent', 'draws': 1, 'antithetic': False, 'density': (1.,)}
REFERENCE = 'sds'                # the first of all methods


def value(text: str):
  """The Python value of an option's text: numbers and tuples of them as such, all else as text;
  `a,` is ('a',)."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    words = [word for word in text.split(',') if word]
    return tuple(words) if ',' in text else text


def configured(config: ConfigDict, method: str) -> ConfigDict:
  """`config` as `method` wants it. ValueError for an option that the config does not have."""
  config = config.copy_and_resolve_references()
  config.mesh.update({'data': 1, 'model': 1})
  config.sampling.update(PUBLISHED)
  for name in config.regularizers:
    config.regularizers[name] = schedules.NEVER
  name, *options = shlex.split(method)
  for option in [f'estimator.name={name}', *options]:
    path, _, text = option.partition('=')
    *parents, last = path.split('.')
    section = config
    for parent in parents:
      section = section.get(parent, None) if isinstance(section, ConfigDict) else None
    if not isinstance(section, ConfigDict) or last not in section:
      raise ValueError(f'--methods: {method!r}: '
                       f'{names.renamed(path) or f"there is no option {path!r}"}')
    old, new = section[last], value(text)
    if isinstance(old, tuple) and not isinstance(new, tuple):
      new = (new,)
    section[last] = float(new) if isinstance(old, float) else new
  return config


def mean_of(config: ConfigDict) -> str:
  """What decides the mean of a step's gradient, in a `configured` config: two methods of the same
  text have the same mean. How the draws are spread is no part of it, and SSD's is SDS's, whatever
  its variates, but in the form that its paper prints."""
  everything = config.to_dict()
  name, sections = config.estimator.name, everything['estimator']
  own = sections.get(name.split(':')[-1], {})  # of a user's own 'module:function', the function's
  if name == 'ssd' and own['form'] == 'stein':
    name, own = 'sds', {option: own[option] for option in sections['sds'] if option in own}
  sampling = {option: value for option, value in everything['sampling'].items()
              if option not in (*PUBLISHED, 'views')}
  rest = {section: of for section, of in everything.items()
          if section not in ('mesh', 'optim', 'eval')}
  return json.dumps(rest | {'estimator': {name: own}, 'sampling': sampling}, sort_keys=True,
                    default=str)


def label(method: str, *, between: str = ' ') -> str:
  """The method for a picture: 'csd sampling.draws=2' is csd, then draws=2."""
  return re.sub(r' [a-z_.]+[.]', between, method)
