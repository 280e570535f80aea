"""Costs read out of the text of a compiled module."""

import pytest

from scripts.compile_ahead import hlo, report
from scripts.compile_ahead.chips import Chip

_MODULE = """\
HloModule jit__fun, is_scheduled=true

%fused (p0: bf16[8,16], p1: bf16[16,4]) -> bf16[8,4] {
  %p0 = bf16[8,16]{1,0} parameter(0)
  %p1 = bf16[16,4]{1,0} parameter(1)
  ROOT %dot = bf16[8,4]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%condition (t: (s32[], bf16[8,4])) -> pred[] {
  %t = (s32[], bf16[8,4]{1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(6)
  %i = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (t.1: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %t.1 = (s32[], bf16[8,4]{1,0}) parameter(0)
  %x = bf16[8,4]{1,0:S(1)} get-tuple-element(%t.1), index=1
  %product = bf16[8,4]{1,0} fusion(%x, %x), kind=kOutput, calls=%fused, \
metadata={op_name="jit(_fun)/jvp(perceiver)/encoder/block_0/dot"}, \
backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %tuple = (s32[], bf16[8,4]{1,0}) tuple(%t.1, %product)
}

ENTRY %main (a: f32[8,16]) -> f32[8,16] {
  %a = f32[8,16]{1,0} parameter(0)
  %loop = (s32[], bf16[8,4]{1,0}) while(%a), condition=%condition, body=%body
  ROOT %sum = f32[8,16]{1,0} all-reduce(%a), replica_groups={{0,1}}, \
to_apply=%fused, metadata={op_name="jit(_fun)/psum"}
}
"""


def test_operations_of_a_loop_count_once_an_iteration():
  product, total = hlo.operations(_MODULE)
  assert (product.name, product.cycles, product.count) == ("product", 100, 6)
  assert product.flops == 2 * 8 * 4 * 16
  assert (total.opcode, total.count) == ("all-reduce", 1)


def test_only_main_memory_counts_as_bytes():
  product, total = hlo.operations(_MODULE)
  assert product.hbm_bytes == 8 * 4 * 2  # The operand is in vector memory.
  assert total.hbm_bytes == 2 * 8 * 16 * 4


def test_collectives_move_the_bytes_of_their_results():
  program = hlo.operations(_MODULE)
  assert hlo.collective_bytes(program, _MODULE) == {"all-reduce": 8 * 16 * 4}


def test_a_loop_without_a_constant_limit_is_open():
  assert not hlo.has_open_loops(_MODULE)
  open_loop = _MODULE.replace("constant(6)", "add(%i, %i)")
  assert hlo.has_open_loops(open_loop)
  assert hlo.operations(open_loop)[0].count == 1


def test_text_that_is_no_module_is_refused():
  with pytest.raises(ValueError, match="no entry computation"):
    hlo.operations("nothing")


@pytest.mark.parametrize(
  ("scope", "part"),
  [
    ("jit(_fun)/jvp(perceiver)/encoder/block_0/dot", "encoder/block_0"),
    (
      "jit(_fun)/transpose(jvp(perceiver))/decoder/cross_attend/mul",
      "decoder/cross_attend (backward)",
    ),
    ("jit(_fun)/psum", "optimizer and metrics"),
  ],
)
def test_operations_belong_to_a_part_of_the_model(scope, part):
  assert report.part_of(scope) == part


def test_a_part_is_bound_by_the_larger_of_products_and_memory():
  chip = Chip(flops=1e3, hbm_bytes=2**30, bandwidth=1.0, clock=100.0)
  parts = report.parts(hlo.operations(_MODULE), chip)
  block = parts["encoder/block_0"]
  assert block["seconds"] == 6.0
  assert block["flops_seconds"] == pytest.approx(6 * 1.024)
  assert block["hbm_seconds"] == pytest.approx(6 * 64)
