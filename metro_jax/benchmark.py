"""Times a config's steps, their parts and the input pipeline on the devices here.

Run:    python -m metro_jax.benchmark --config=configs/synthetic.py [--json=FILE]
          [--compare=OLD.json] [--profile=FOLDER] [--sections=train,input]
Result: Images/s, ms, memory, operations/s and their share of the fastest matrix
        products of the same run, each as soon as it is measured. Pictures and weights
        are made up; no data is needed.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from metro_jax import command_line, files, outputs
from metro_jax import config as base
from metro_jax.benchmarking import ceiling, report, suite
from metro_jax.cluster import parallel
from metro_jax.planning import stand_in

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the command's flags."""
  config_flags.DEFINE_config_file("config", None, "What to time.", lock_config=True)
  flags.mark_flag_as_required("config")
  text = "Seconds to repeat each measurement for."
  flags.DEFINE_float("seconds", 5.0, text, lower_bound=0.0)
  text = f"What to measure, of {', '.join(suite.SECTIONS)}."
  flags.DEFINE_list("sections", list(suite.SECTIONS), text)
  flags.DEFINE_string("json", "", "Also writes everything to this file.")
  flags.DEFINE_string("compare", "", "An earlier --json file to compare with.")
  text = "Folder for a trace of a few training steps, for Perfetto or XProf."
  flags.DEFINE_string("profile", "", text)


def benchmark(
  config: ConfigDict,
  seconds: float = 5.0,
  sections: Sequence[str] = suite.SECTIONS,
  profile: pathlib.Path | None = None,
  old: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Measures a config and prints every result at once; see `benchmarking.report`.

  Args:
    config: The whole config.
    seconds: To repeat each measurement for.
    sections: Of `suite.SECTIONS`.
    profile: Folder for a trace.
    old: The results of an earlier run, to compare with.

  Returns:
    All results as plain values.

  Raises:
    ValueError: If the config or a section is wrong, or a batch does not divide.
  """
  base.validate(config)
  unknown = [name for name in sections if name not in suite.SECTIONS]
  if unknown:
    raise ValueError(
      f"--sections: expected any of {', '.join(suite.SECTIONS)}, got {unknown[0]!r}"
    )
  parallel.check_batch_size("train.batch_size", config.train.batch_size)
  parallel.check_batch_size("eval.batch_size", config.eval.batch_size)
  network, note = stand_in.build(config)
  if note:
    print(note, flush=True)
  suite.say("measuring matrix products")
  top = ceiling.measure(config.model.compute_dtype, seconds / 4)
  found = report.values(top, _setting(config))
  print(report.heading(found), flush=True)
  for row in suite.measure(suite.Job(config, network, seconds), sections, profile):
    print(report.add(found, row, old), flush=True)
  print(report.closing(found), flush=True)
  return found


def _setting(config: ConfigDict) -> dict[str, Any]:
  return {
    "backbone": config.model.backbone,
    "image_px": config.data.image_px,
    "compute_dtype": config.model.compute_dtype,
    "train_batch": config.train.batch_size,
    "eval_batch": config.eval.batch_size,
  }


def main(arguments: list[str]) -> None:
  command_line.expect_no_arguments(arguments)
  command_line.keep_memory()
  if FLAGS.json:
    outputs.expect_free(files.expand_home(FLAGS.json), "benchmark")
  old = report.read(pathlib.Path(FLAGS.compare).expanduser()) if FLAGS.compare else None
  profile = pathlib.Path(FLAGS.profile).expanduser() if FLAGS.profile else None
  found = benchmark(FLAGS.config, FLAGS.seconds, FLAGS.sections, profile, old)
  if FLAGS.json:
    with outputs.replacing(files.expand_home(FLAGS.json), "benchmark") as partial:
      files.write_json(partial, found)


if __name__ == "__main__":
  define_flags()
  command_line.run("benchmark", main)
