"""Plans as text, as a table and as plain values."""

from typing import Any

from metro_jax.planning.plan import Plan, StepPlan

GIB = 2**30
COLUMNS = (
  "slice", "chips", "hosts", "batch a chip", "memory a chip", "of", "fits", "largest",
  "GFLOP/image", "MB/image", "images/s ≤", "h/epoch ≥", "limited by", "compiled in",
)  # fmt: skip


def text(plan: Plan, examples: int, notes: list[str]) -> str:
  """Everything about a plan, a fact a line.

  Args:
    plan: Of a config on a target.
    examples: In an epoch; 0 if it is not known.
    notes: Sentences to end with.
  """
  target = plan.target
  count = len(target.devices)
  kind = target.devices[0].device_kind
  lines = [f"{target.name}: {count} x {kind}, {target.hosts} hosts"]
  for name, step in (("train", plan.train), ("evaluate", plan.evaluate)):
    lines += [f"  {name} step, {step.examples} images a chip"]
    lines += [f"    {line}" for line in _step(step, plan)]
  if plan.largest:
    lines.append(
      f"  largest batch: {plan.largest} images a chip, {plan.largest * count} in all "
      f"({_line(plan)}; not compiled itself)"
    )
  lines += [f"  {line}" for line in _speed(plan, examples)]
  return "\n".join(lines + [f"  ! {note}" for note in notes])


def _line(plan: Plan) -> str:
  """What the largest batch was found by."""
  if plan.compared:
    return f"a line through {plan.compared} and {plan.train.examples} images"
  return f"a line from the state and gradients through {plan.train.examples} images"


def _step(step: StepPlan, plan: Plan) -> list[str]:
  program, limit = step.program, plan.target.memory_bytes
  lines = [f"memory: {fit(step, limit)}"]
  if program.memory is not None:
    parts = program.memory._asdict().items()
    lines.append("  " + ", ".join(f"{k} {v / GIB:.2f}" for k, v in parts) + " GiB")
  lines.append(
    f"operations: {step.flops / step.examples / 1e9:.1f} GFLOP an image in products "
    f"(the compiler counts {program.flops / step.examples / 1e9:.1f} in all)"
  )
  if program.memory is None:
    return lines
  lines.append(_bytes_moved(step))
  exchanges = [
    f"{found.count} {kind} of {found.bytes / 1e6:.1f} MB in all"
    for kind, found in step.collectives.items()
  ]
  lines.append(f"exchanges: {', '.join(exchanges) or 'none'}")
  if step.bounds is not None:
    times = step.bounds._asdict().items()
    least = ", ".join(f"{name} {1e3 * t:.2f} ms" for name, t in times)
    lines.append(f"at least {1e3 * step.bounds.seconds:.2f} ms a step: {least}")
  return lines


def _bytes_moved(step: StepPlan) -> str:
  padded, alone, counted = (
    f"{size / step.examples / 1e6:.1f}"
    for size in (
      step.traffic.padded_bytes,
      step.traffic.bytes,
      step.program.bytes_moved,
    )
  )
  return (
    f"bytes moved: {padded} MB an image, {alone} without padding (the compiler counts "
    f"{counted}, on the chip included)"
  )


def fit(step: StepPlan, limit: float) -> str:
  """Whether a step fits, and by how much, in words."""
  needed = step.program.needed_bytes
  if not needed:
    return "does not fit, by how much the compiler does not say"
  if not limit:
    return f"{needed / GIB:.2f} GiB; how much there is, is not known"
  left = (limit - needed) / GIB
  said = f"{needed / GIB:.2f} of {limit / GIB:.2f} GiB"
  if step.program.memory is None or left < 0:
    return f"{said}: does not fit, {abs(left):.2f} GiB too much"
  return f"{said}: fits, {left:.2f} GiB left"


def _speed(plan: Plan, examples: int) -> list[str]:
  bounds, speed = plan.train.bounds, plan.images_per_second
  chip = plan.target.chip
  if bounds is None or chip is None:
    return ["speed: no bound; no peaks of this device are published here"] * plan.fits
  lines = [
    f"speed: at most {speed:,.0f} images/s, {speed / plan.target.hosts:,.0f} a host, "
    f"limited by its {bounds.limit} (peaks of {chip.name}: {chip.source})"
  ]
  if examples:
    hours = examples / speed / 3600
    lines.append(f"epoch: {examples:,} images take at least {hours:.3g} hours")
  else:
    hours = 1e6 / speed / 3600
    lines.append(f"epoch: every million images take at least {hours:.3g} hours")
  return lines


def rows(plans: list[Plan], examples: int) -> str:
  """One line a plan, in Markdown.

  Args:
    plans: Of one config.
    examples: In an epoch; 0 if it is not known.
  """
  head = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
  return "\n".join(head + ["| " + " | ".join(_row(p, examples)) + " |" for p in plans])


def _row(plan: Plan, examples: int) -> list[str]:
  target, step = plan.target, plan.train
  limit, needed = target.memory_bytes, step.program.needed_bytes
  speed, bounds = plan.images_per_second, step.bounds
  # Both steps are compiled at the same time.
  seconds = max(step.program.seconds, plan.evaluate.program.seconds)
  known = step.program.memory is not None
  moved = step.traffic.padded_bytes / step.examples / 1e6
  return [
    target.name,
    str(len(target.devices)),
    str(target.hosts),
    str(step.examples),
    f"{needed / GIB:.2f} GiB" if needed else "?",
    f"{limit / GIB:.2f} GiB" if limit else "?",
    "yes" if plan.fits else "no",
    str(plan.largest or "?"),
    f"{step.flops / step.examples / 1e9:.1f}",
    f"{moved:.0f}" if known else "?",
    f"{speed:,.0f}" if speed else "?",
    f"{examples / speed / 3600:.3g}" if speed and examples else "?",
    bounds.limit if bounds else "?",
    f"{seconds:.0f} s",
  ]


def values(plan: Plan, examples: int, notes: list[str]) -> dict[str, Any]:
  """A plan as plain values, fit for JSON."""
  target = plan.target
  speed = plan.images_per_second
  return {
    "topology": target.name,
    "devices": len(target.devices),
    "device_kind": target.devices[0].device_kind,
    "hosts": target.hosts,
    "memory_bytes": target.memory_bytes,
    "peaks": target.chip._asdict() if target.chip else None,
    "fits": plan.fits,
    "largest_batch_a_chip": plan.largest,
    "largest_batch_is": _line(plan),
    "images_per_second_at_most": speed,
    "epoch_examples": examples,
    "epoch_hours_at_least": examples / speed / 3600 if speed and examples else None,
    "train": _step_values(plan.train),
    "evaluate": _step_values(plan.evaluate),
    "notes": notes,
  }


def _step_values(step: StepPlan) -> dict[str, Any]:
  program = step.program
  return {
    "images_a_chip": step.examples,
    "memory": program.memory._asdict() if program.memory else None,
    "needed_bytes": program.needed_bytes,
    "flops": step.flops,
    "tiled_flops": step.tiled_flops,
    "flops_by_part": step.parts,
    "compiler_flops": program.flops,
    "compiler_bytes_moved": program.bytes_moved,
    "traffic": step.traffic._asdict(),
    "collectives": {k: v._asdict() for k, v in step.collectives.items()},
    "seconds_at_least": step.bounds._asdict() if step.bounds else None,
    "compile_seconds": program.seconds,
    "compiled_as_in_training": program.exact,
  }
