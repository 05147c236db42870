"""Reading compiled programs: every number here was counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from metro_jax.planning import hlo

PROGRAM = """HloModule jit_step, is_scheduled=true

%fused (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %mul.1 = f32[8,128]{1,0:T(8,128)} multiply(%p, %p)
}

ENTRY %main (a: f32[8,128], b: bf16[445,445]) -> (f32[8,128], bf16[445,445]) {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = bf16[445,445]{1,0:T(8,128)(2,1)} parameter(1)
  %near = f32[8,128]{1,0:T(8,128)S(1)} fusion(%a), kind=kLoop, calls=%fused
  %all = f32[8,128]{1,0:T(8,128)S(1)} all-reduce(%near), channel_id=1, to_apply=%sum
  %far = f32[8,128]{1,0:T(8,128)} fusion(%all), kind=kLoop, calls=%fused
  %copy-start = (bf16[445,445]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%b)
  %copy-done = bf16[445,445]{1,0:T(8,128)(2,1)} copy-done(%copy-start)
  ROOT %out = (f32[8,128], bf16[445,445]) tuple(%far, %copy-done)
}
"""


def test_traffic_counts_main_memory_once_a_use_and_not_the_memory_on_the_chip():
  small, large = 8 * 128 * 4, 445 * 445 * 2
  # Read a; write far; read and write b. What stays on the chip (S(1)) is free.
  assert hlo.traffic(PROGRAM).bytes == small + small + 2 * large


def test_traffic_with_padding_fills_up_tiles():
  small, large = 8 * 128 * 4, 448 * 512 * 2  # 445 rows to 448, 445 columns to 512
  assert hlo.traffic(PROGRAM).padded_bytes == small + small + 2 * large


def test_a_slice_reads_what_it_gives():
  text = """ENTRY %main (w: f32[64,128]) -> f32[8,128] {
  %w = f32[64,128]{1,0:T(8,128)} parameter(0)
  %start = ((f32[64,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) \
slice-start(%w), slice={[0:8], [0:128]}
  %done = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%start)
  ROOT %cut = f32[8,128]{1,0:T(8,128)} slice(%w), slice={[8:16], [0:128]}
}
"""
  assert hlo.traffic(text).bytes == 8 * 128 * 4 * 3  # start reads; cut reads, writes


@pytest.mark.parametrize(
  ("line", "kind", "size"),
  [
    ("%r = f32[10,3]{1,0} all-reduce(%x), to_apply=%sum", "all-reduce", 120),
    (
      "%r = (bf16[4]{0:T(256)(128)}, f32[2]{0:T(128)}) all-reduce-start(%x, %y)",
      "all-reduce",
      16,
    ),
    (
      "%r = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), dimensions={0}",
      "all-gather",
      32,
    ),
    ("%r = pred[7]{0} reduce-scatter(%x), dimensions={0}", "reduce-scatter", 7),
  ],
)
def test_an_exchange_is_counted_with_its_bytes(line, kind, size):
  text = f"  {line}\n  %d = f32[10,3]{{1,0}} all-reduce-done(%r)\n  %o = add(%r, %r)\n"
  assert hlo.collectives(text) == {kind: hlo.Collectives(1, size)}


def test_exchanges_of_a_real_program_are_its_sums():
  def step(x):
    return jax.lax.psum(x, "data"), jax.lax.pmean(x.sum(), "data")

  mapped = jax.pmap(step, axis_name="data")
  shape = jax.ShapeDtypeStruct((jax.local_device_count(), 5, 7), jnp.float32)
  found = hlo.collectives(mapped.lower(shape).compile().as_text())
  assert set(found) == {"all-reduce"}
  assert found["all-reduce"].bytes == 4 * (5 * 7 + 1)
