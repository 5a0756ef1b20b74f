"""Which picture is rendered next: of each visitor only the newest wish counts, coarse at once and
fine once it has rested. No picture is made here, so nothing here waits for one."""
import threading
import time
from typing import Any, Callable, NamedTuple

COARSE, FINE = 0, 1
REST = .15                               # seconds without a new wish until the fine picture begins


class Job(NamedTuple):
  """One picture to make: for whom, of what (whatever `ask` was told), COARSE or FINE."""
  who: int
  what: Any
  level: int
  number: int                            # of the wish


class Wish(NamedTuple):
  """The newest of a visitor: what, its number, when; the next level to begin, and to show."""
  what: Any
  number: int
  since: float
  begins: int = COARSE
  shows: int = COARSE


class Desk:
  """Wishes come in by `ask`, a thread of each level takes jobs, and what it made is shown if
  `deliver` says so."""

  def __init__(self, *, rest: float = REST, clock: Callable[[], float] = time.monotonic):
    self.rest, self.clock = rest, clock
    self.wishes, self.numbers, self.closed = {}, 0, False
    self.changed = threading.Condition()

  def ask(self, who: int, what: Any) -> None:
    """A visitor's newest wish, in place of any before."""
    with self.changed:
      self.numbers += 1
      self.wishes[who] = Wish(what, self.numbers, self.clock())
      self.changed.notify_all()

  def again(self) -> None:
    """The same wishes anew: what they are of has changed."""
    with self.changed:
      for who, wish in list(self.wishes.items()):
        self.ask(who, wish.what)

  def forget(self, who: int) -> None:
    """A visitor has left."""
    with self.changed:
      self.wishes.pop(who, None)

  def next(self, level: int) -> tuple[Job | None, float | None]:
    """The longest waiting job of a level, begun herewith, or None; and in how many seconds there
    may be one, None if not before the next wish."""
    with self.changed:
      waiting = sorted((wish.since, who) for who, wish in self.wishes.items()
                       if wish.begins == level)
      if not waiting:
        return None, None
      since, who = waiting[0]
      left = since + (self.rest if level == FINE else 0.) - self.clock()
      if left > 0.:
        return None, left
      wish = self.wishes[who]
      self.wishes[who] = wish._replace(begins=level + 1)
      self.changed.notify_all()
      return Job(who, wish.what, level, wish.number), None

  def take(self, level: int) -> Job | None:
    """Waits for a job of a level; None once the desk is closed."""
    with self.changed:
      while not self.closed:
        job, wait = self.next(level)
        if job:
          return job
        self.changed.wait(wait)
    return None

  def deliver(self, job: Job) -> bool:
    """Whether what was made of a job is to be shown: the wish is still the newest of its visitor,
    and nothing finer is shown."""
    with self.changed:
      wish = self.wishes.get(job.who)
      if wish is None or wish.number != job.number or wish.shows > job.level:
        return False
      self.wishes[job.who] = wish._replace(shows=job.level + 1)
      return True

  def close(self) -> None:
    """Ends every `take`."""
    with self.changed:
      self.closed = True
      self.changed.notify_all()
