"""report.html of a run of several stages: each one's turntable and a link to its own report."""
import pathlib

from jaxdreamer.outputs import pages


def write(workdir: pathlib.Path, *, prompt: str, stages: list[str]) -> pathlib.Path:
  """The page, of those of `stages` whose report lies in workdir/NAME; the pictures are in it."""
  def entry(name):
    picture = workdir / name / 'turntable.png'
    return {'name': name, 'report': f'{name}/report.html',
            'picture': picture.exists() and pages.data_url('image/png', picture.read_bytes())}
  there = [name for name in stages if (workdir / name / 'report.html').exists()]
  path = workdir / 'report.html'
  path.write_text(pages.render('overview.html', prompt=prompt, stages=list(map(entry, there)),
                               left=[name for name in stages if name not in there]),
                  encoding='utf-8')
  return path
