"""Which tensors of a file are a network's, whatever a program wrapped them in.

Programs save a state dict alone, inside dictionaries ("state_dict", "ema", ...) beside
an optimizer and settings, and with the names of wrapping modules before its keys
("module.", "_orig_mod.", "model.", ...). A dictionary's name and a module's are the
same here: a tensor has a path with points, and the network's keys must all be there
behind one common prefix.
"""

import collections
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from metro_jax.weights import torch_metro
from metro_jax.weights.torch_metro import Entry, Fit, Shape

# Where several entries fit, what lies below the first of these is the network's.
PREFERRED = ("state_dict", "model_state_dict", "model")
# What torch.compile and sharding put before or inside of keys.
_INSERTED = re.compile(
  r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
MAX_PATH = 250  # characters; METRO's longest key has a third of it
_MOST_ENTRIES = 32  # of the network in one file
_MOST_SAID = 5


class Contents(NamedTuple):
  """What a file of weights holds, without the numbers.

  Attributes:
    shapes: Of its tensors, by path.
    folders: The dictionary in which each lies, as the beginning of its path.
    unread: Names of objects that are no tensors, by path.
  """

  shapes: Mapping[str, Shape]
  folders: Mapping[str, str]
  unread: Mapping[str, str]


class Choice(NamedTuple):
  """The network's tensors in a file.

  Attributes:
    paths: By key of the network.
    prefix: What stands before the keys in the file.
    ignored: Tensors below the prefix that the network has no use for.
    others: Prefixes of other entries that fit, too.
  """

  paths: Mapping[str, str]
  prefix: str
  ignored: int
  others: Sequence[str]


class MisfitError(ValueError):
  """No tensors of a file are the network's.

  Attributes:
    listing: Every key that does not fit, a line each.
  """

  def __init__(self, text: str, listing: str = ""):
    super().__init__(text)
    self.listing = listing


class _View(NamedTuple):
  """The tensors below a prefix: the path of each key, and how they fit."""

  prefix: str
  paths: Mapping[str, str]
  fit: Fit


def choose(
  contents: Contents, table: Sequence[Entry], unused: Container[str], entry: str = ""
) -> Choice:
  """Finds a network's tensors.

  Args:
    contents: Of the file.
    table: What the network needs.
    unused: Keys that may be there beside them.
    entry: The beginning of the path of the tensors to take; empty for any.

  Raises:
    MisfitError: If no tensors fit, or those of several entries do and none of them
      is preferred.
  """
  paths = _named(
    path
    for path in contents.shapes
    if len(path) <= MAX_PATH and (not entry or path.startswith(f"{entry}."))
  )
  if not paths:
    raise MisfitError(f"expected tensors below {entry}., got {_entries(contents)}")
  votes = _votes(paths, {each.key for each in table})
  complete = [prefix for prefix, count in votes.items() if count == len(table)]
  if len(complete) > _MOST_ENTRIES:
    raise MisfitError(f"expected one network, got {len(complete):,}")
  views = [_view(contents, paths, each, complete, table, unused) for each in complete]
  fitting = [view for view in views if not any(view.fit[:3])]
  if not fitting:
    nearest = max(votes, key=lambda prefix: votes[prefix], default="")
    raise _misfit(
      contents, _view(contents, paths, nearest, complete, table, unused), entry
    )
  ranks = [_rank(view.prefix) for view in fitting]
  if ranks.count(min(ranks)) > 1:
    names = ", ".join(view.prefix.rstrip(".") or "(no prefix)" for view in fitting)
    raise MisfitError(
      f"expected one entry that fits the network, got {len(fitting)}: {names}; "
      "name one behind the file's name and a #, such as FILE#"
      + next(view.prefix for view in fitting if view.prefix).rstrip(".")
    )
  best = fitting[ranks.index(min(ranks))]
  keys = [each.key for each in table]
  return Choice(
    paths={key: best.paths[key] for key in keys},
    prefix=_removed(best.paths[keys[0]], keys[0], best.prefix),
    ignored=len(best.fit.ignored),
    others=[view.prefix for view in fitting if view is not best],
  )


def _named(paths: Iterable[str]) -> dict[str, str]:
  """Paths by their names without what compilers insert, if these tell them apart."""
  paths = list(paths)
  named = {_INSERTED.sub("", path): path for path in paths}
  return named if len(named) == len(paths) else dict(zip(paths, paths, strict=True))


def _votes(names: Iterable[str], keys: Container[str]) -> collections.Counter[str]:
  """How many of the network's keys stand behind each prefix."""
  votes: collections.Counter[str] = collections.Counter()
  for name in names:
    start = 0
    while start >= 0:
      if name[start:] in keys:
        votes[name[:start]] += 1
      start = name.find(".", start) + 1 or -1
  return votes


def _view(
  contents: Contents,
  paths: Mapping[str, str],
  prefix: str,
  complete: Iterable[str],
  table: Iterable[Entry],
  unused: Container[str],
) -> _View:
  """What lies below a prefix, but for what lies below a longer complete one.

  A dictionary inside that has none of the network's keys does not count: it may be an
  optimizer's.
  """
  longer = tuple(other for other in complete if other != prefix)
  longer = tuple(other for other in longer if other.startswith(prefix))
  below = {
    name.removeprefix(prefix): path
    for name, path in paths.items()
    if name.startswith(prefix) and not (longer and name.startswith(longer))
  }
  wanted = {each.key for each in table}
  folders = {contents.folders[path] for key, path in below.items() if key in wanted}
  if folders:
    below = {k: path for k, path in below.items() if contents.folders[path] in folders}
  shapes = {key: contents.shapes[path] for key, path in below.items()}
  return _View(prefix, below, torch_metro.compare(shapes, table, unused))


def _rank(prefix: str) -> int:
  first = prefix.split(".")[0]
  return PREFERRED.index(first) if first in PREFERRED else len(PREFERRED)


def _removed(path: str, key: str, prefix: str) -> str:
  """The prefix as it stands in the file."""
  return path.removesuffix(key) if path.endswith(key) else prefix


def _misfit(contents: Contents, view: _View, entry: str) -> MisfitError:
  """What to say of the entry that is nearest to fitting."""
  text = torch_metro.misfit(view.fit)
  unread = [key for key in view.fit.missing if view.prefix + key in contents.unread]
  if unread:
    name = contents.unread[view.prefix + unread[0]]
    text += f"; {unread[0]} is no tensor but asks for {name}"
  if view.prefix:
    text += f"; compared without the prefix {view.prefix}"
  if set(contents.folders.values()) != {""} and not entry:
    text += f"; the file has {_entries(contents)}"
  return MisfitError(text, torch_metro.misfit(view.fit, most=None))


def _entries(contents: Contents) -> str:
  """The dictionaries of tensors in a file, the largest first."""
  counts = collections.Counter(contents.folders.values()).most_common()
  said = [f"{name.rstrip('.') or '(no entry)'} of {n} tensors" for name, n in counts]
  more = len(said) - _MOST_SAID
  return ", ".join(said[:_MOST_SAID]) + (f" and {more} more" if more > 0 else "")
