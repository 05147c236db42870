"""The rows of a dataset that can be stored, as records; what is wrong with the others.

A few rows at a time are read, then checked, then turned into records. One row after the
other takes a sixth more time: each step drives out of the processor's caches what the
next row's needs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from metro_jax.data.builders import records, row_checks
from metro_jax.data.readers.reader import Reader
from metro_jax.data.schema import Example
from metro_jax.text_files import one_line

_TOGETHER = 16  # more take more memory and hardly less time


class Refused(NamedTuple):
  """A row that is not stored."""

  row: int
  where: str
  reason: str


class TooManyRefused(Exception):  # noqa: N818
  """More rows of one shard are bad than the whole dataset may have."""

  def __init__(self, refused: Sequence[Refused]):
    super().__init__(f"{len(refused)} rows refused")
    self.refused = list(refused)


def sound_rows(
  reader: Reader,
  rows: range,
  known_bad: Mapping[int, str],
  at_row: Callable[[int], None],
  refused: list[Refused],
  most_refused: int,
) -> Iterator[tuple[Example, bytes]]:
  """Reads, checks and serialises rows, in order.

  Args:
    reader: Of the dataset.
    rows: Those to read.
    known_bad: Rows that must not be tried, and why.
    at_row: Called with each row before each step.
    refused: Where rows that are bad are appended.
    most_refused: How many rows may be bad.

  Yields:
    Each example that can be stored, and its record.

  Raises:
    TooManyRefused: If more are bad.
  """
  serialise = records.writer(reader.labels)

  def check(example: Example) -> Example:
    row_checks.check(example, reader.labels)
    return example

  def each(step: Callable, given: Iterable[tuple[int, Any]]) -> Iterator[tuple]:
    """What a step makes of each row."""
    for row, value in given:
      at_row(row)
      try:
        if row in known_bad:
          raise ValueError(known_bad[row])
        made = step(value)
      except Exception as error:  # whatever a bad row does to its reader
        refused.append(Refused(row, _where(reader, row), reason(error)))
      else:
        yield row, made

  for first in range(0, len(rows), _TOGETHER):
    numbers = rows[first : first + _TOGETHER]
    read = list(each(reader.read, zip(numbers, numbers, strict=True)))
    checked = list(each(check, read))
    for _, made in each(lambda example: (example, serialise(example)), checked):
      yield made
    refused.sort()
    if len(refused) > most_refused:
      raise TooManyRefused(refused[: most_refused + 1])


def _where(reader: Reader, row: int) -> str:
  try:
    return reader.where(row)
  except Exception:  # of a row that is nowhere
    return f"row {row}"


def reason(error: Exception) -> str:
  """What an error says, short and in one line."""
  text = one_line(error)
  named = isinstance(error, ValueError | OSError) or not str(error).strip()
  return text if named else one_line(f"{type(error).__name__}: {text}")
