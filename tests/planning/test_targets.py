"""Which devices a name means, and what is said when there are none."""

import importlib.util
import json
import subprocess
import sys

import jax
import pytest

from metro_jax.planning import chips, targets

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu (pip install 'metro_jax[tpu]')",
)


@pytest.mark.parametrize("name", ("v9x:2x2", "v5e", "v5e:4x", "4x4", "v5e:2x2x2x2", ""))
def test_a_name_that_is_no_slice_is_refused_with_an_example(name):
  with pytest.raises(
    ValueError, match=r"topology: expected local or a slice .* v5e:4x4"
  ):
    targets.prepare([name])


def test_without_libtpu_one_line_says_how_to_get_it(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, "find_spec", lambda n: None if n == "libtpu" else find(n)
  )
  with pytest.raises(OSError, match=r"v5e:4x4: expected libtpu.*metro_jax\[tpu\]"):
    targets.prepare(["local", "v5e:4x4"])


def test_local_means_every_device_of_this_machine():
  found = targets.open_target("local")
  assert found.devices == tuple(jax.devices())
  assert found.hosts == 1
  assert not found.options  # nothing but what training has


def test_every_chips_figures_name_their_source_and_fit_each_other():
  for chip in chips.CHIPS.values():
    assert chip.source.startswith("https://")
    assert 1e9 < chip.memory_bytes < 1e12 < chip.flops < 1e16
    # Products of a few hundred bytes an operation balance every one of them.
    assert 50 < chip.flops / chip.memory_bandwidth < 1000


OPEN = """
import json
from metro_jax.planning import targets
names = {names}
targets.prepare(names)
found = []
for name in names:
  try:
    target = targets.open_target(name)
    found.append([len(target.devices), target.hosts, target.chip.name,
                  target.memory_bytes / 2**30, dict(target.options)])
  except ValueError as error:
    found.append(str(error))
print("RESULT" + json.dumps(found))
"""


def opened(names):
  """In a process of its own: libtpu is set up once, before anything else of JAX."""
  done = subprocess.run(
    [sys.executable, "-c", OPEN.format(names=names)], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.split("RESULT")[1])


@needs_libtpu
def test_slices_have_their_chips_hosts_and_memory():
  found = opened(["v5e:4x4", "v5p:2x2x4", "v6e:4x4", "v5e:3x5"])
  assert found[0][:3] == [16, 4, "v5e"]
  assert found[1][:3] == [16, 4, "v5p"]
  assert found[2][:3] == [16, 4, "v6e"]
  # A compiler keeps a little of the published 16, 95 and 32 GB for itself.
  for (*_, gib, options), published in zip(found[:3], (16, 95, 32), strict=True):
    assert options == targets.SMALL_SCRATCH
    assert 0.95 * published < gib < 1.05 * published
  assert "topology v5e:3x5: expected a slice that libtpu knows" in found[3]
