"""What a reader of any dataset format is."""

from typing import Protocol, runtime_checkable

from metro_jax.data.schema import Example, LabelSet


@runtime_checkable
class Reader(Protocol):
  """The rows of one split of a dataset, as its owner publishes it.

  A reader is pickled and sent to the processes that read: it opens files when they are
  first needed, keeps them out of its pickle, and holds indices at most. Opened again
  from the same files it pickles to the same bytes, which a build knows its source by.
  """

  name: str  # format and source, for messages: "tsv h36m/train.yaml"
  labels: LabelSet

  def __len__(self) -> int: ...

  def where(self, row: int) -> str:
    """File and row as their owner counts them: "train.label.tsv row 17", from 0."""
    ...

  def read(self, row: int) -> Example:
    """Reads a row; whoever stores it checks its picture and numbers.

    Raises:
      ValueError, OSError: If it is bad, saying why; the caller adds `where`.
    """
    ...
