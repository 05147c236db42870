"""A dataset as its owner publishes it to one that training reads fast.

Run:    python -m metro_jax.prepare --format=FORMAT --source=PATH --name=NAME
          --split=SPLIT [--images=FOLDER] [--data_dir=FOLDER] [--option=KEY=VALUE ...]
          [--workers=0] [--max_refused=0.01]
Result: DATA_DIR/NAME/SPLIT/1.0.0, which `config.data` names "NAME/SPLIT" and
        tensorflow-datasets opens with `builder_from_directory`: pictures as they were,
        labels, summary.json, and refused.tsv with file, row and reason of each bad row.

Formats and what --source must be: see --help.

Stopped at any moment, the same command goes on. Folders are local ones: rows are read
in any order, which objects of a bucket do not allow.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from metro_jax import command_line, config, files
from metro_jax.data import datasets
from metro_jax.data.builders import prepared
from metro_jax.data.readers import formats

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the command's flags."""
  known = "; ".join(f"{name}: {what.expects}" for name, what in formats.FORMATS.items())
  flags.DEFINE_string("format", None, f"One of: {known}.", required=True)
  flags.DEFINE_string("source", None, "File or folder to read.", required=True)
  flags.DEFINE_string("images", None, "Folder of the pictures, where that is apart.")
  flags.DEFINE_string("name", None, "What to call the dataset.", required=True)
  flags.DEFINE_string("split", None, "What to call the split.", required=True)
  flags.DEFINE_string(
    "data_dir", config.get_config().data.data_dir, "Where prepared datasets live."
  )
  flags.DEFINE_multi_string("option", [], "KEY=VALUE that only this format knows.")
  flags.DEFINE_integer("workers", 0, "Reading processes; 0 means one a core.")
  flags.DEFINE_float("max_refused", 0.01, "Largest share of rows that may be bad.")


def prepare(
  format_name: str,
  source: formats.Source,
  data_dir: pathlib.Path,
  name: str,
  *,
  workers: int = 0,
  max_refused: float = 0.01,
) -> prepared.Summary:
  """Prepares one split.

  Args:
    format_name: One of `formats.FORMATS`.
    source: The dataset's files; its split is the one to make.
    data_dir: Where prepared datasets live.
    name: What to call the dataset.
    workers: Reading processes; 0 means one a core.
    max_refused: Largest share of rows that may be bad.

  Raises:
    FileNotFoundError: If a file is missing.
    ValueError: If an argument is wrong or too many rows are bad.
    OSError: If the disk is full.
  """
  prepared.expect_names(data_dir, name, source.split)
  if name == datasets.SYNTHETIC:
    raise ValueError(f"--name: {name} is the dataset that we draw; choose another")
  source = source._replace(index_folder=data_dir / "indices")
  reader = formats.open_reader(format_name, source)
  summary = prepared.build(reader, data_dir, name, source.split, workers, max_refused)
  for reason, count in getattr(reader, "left_out", {}).items():
    if count:  # no rows, by the format's own rules
      print(f"{name}/{source.split}: left out {count:,} {reason}")
  return summary


def describe(summary: prepared.Summary, folder: pathlib.Path) -> str:
  """What was read, kept and refused, for people."""
  refused = f", {summary.refused:,} refused (refused.tsv)" if summary.refused else ""
  reasons = prepared.count_refused(folder) if summary.refused else {}
  told = ", ".join(f"{count:,} for {field}" for field, count in reasons.items())
  return (
    f"{folder}: {summary.kept:,} of {summary.rows:,} rows{refused}; "
    f"{summary.joints_2d:,} with 2D joints, {summary.joints_3d:,} with 3D joints, "
    f"{summary.mesh:,} with pose and shape of a {summary.labels}; "
    f"{summary.bytes / 1e6:,.1f} MB{told and '; refused: '}{told}"
  )


def parse_options(pairs: Sequence[str]) -> dict[str, str]:
  """KEY=VALUE pairs as a dict.

  Raises:
    ValueError: Naming the pair that is none.
  """
  found = {}
  for pair in pairs:
    key, equals, value = pair.partition("=")
    if not key or not equals:
      raise ValueError(f"--option: expected KEY=VALUE, got {pair!r}")
    found[key] = value
  return found


def main(arguments: list[str]) -> None:
  command_line.expect_no_arguments(arguments)
  data_dir = files.expand_home(FLAGS.data_dir)
  source = formats.Source(
    source=files.expand_home(FLAGS.source),
    split=FLAGS.split,
    images=files.expand_home(FLAGS.images) if FLAGS.images else None,
    options=parse_options(FLAGS.option),
  )
  summary = prepare(
    FLAGS.format,
    source,
    data_dir,
    FLAGS.name,
    workers=FLAGS.workers,
    max_refused=FLAGS.max_refused,
  )
  print(describe(summary, prepared.folder_of(data_dir, FLAGS.name, FLAGS.split)))


if __name__ == "__main__":
  define_flags()
  command_line.run("prepare", main)
