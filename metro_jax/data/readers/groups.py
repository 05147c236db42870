"""What a picture belongs to, from its name: an action or a sequence."""

import re

_HUMAN36M = re.compile(
  r"(?:^|/)S\d+[_/]([A-Z][A-Za-z]+)"
)  # S9_Walking_1.60457274_000001
_HUMAN36M_NUMBERED = re.compile(r"(?:^|[/_])(act_\d+)_subact_\d+")


def group_of(key: str) -> str:
  """The group that tables of errors count a picture in.

  Args:
    key: A picture's name, with folders or without.

  Returns:
    The action of a Human3.6M name, otherwise the folder that it lies in, or "".
  """
  for pattern in (_HUMAN36M, _HUMAN36M_NUMBERED):
    if found := pattern.search(key):
      return found[1]
  folder = key.rpartition("/")[0]
  return folder.rpartition("/")[2]
