"""Costs read out of the text of a compiled module."""

import pytest

from scripts.compile_ahead import chips, hlo, program, report
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


@pytest.mark.parametrize("flops", [0.0, 1e9])
def test_only_a_train_step_has_an_mfu(flops):
  chip = chips.chip("TPU v5 lite")
  lowered = program.Lowered(None, 0, 0, 0, flops, [], ("all-reduce",), {})
  compiled = program.Compiled(1.0, 1.0, _MODULE, {"code": 1}, 0)
  figures = report.figures(lowered, compiled, chip, num_devices=2)
  ideal = flops / 2 / chip.flops
  if flops:
    assert figures["estimated_mfu"] == ideal / figures["estimated_seconds"]
  assert ("estimated_mfu" in figures) == ("MFU" in report.text(figures))
  assert ("estimated_mfu" in figures) == bool(flops)


def _convolution(window, labels, lhs, kernel, out):
  """Returns the operation of a module of one convolution."""
  text = f"""\
ENTRY %main (a: bf16[{lhs}], b: bf16[{kernel}]) -> bf16[{out}] {{
  %a = bf16[{lhs}]{{0}} parameter(0)
  %b = bf16[{kernel}]{{0}} parameter(1)
  ROOT %c = bf16[{out}]{{0}} convolution(%a, %b), {window}dim_labels={labels}
}}
"""
  return hlo.operations(text)[0]


@pytest.mark.parametrize(
  ("window", "labels", "lhs", "kernel", "out", "products"),
  [
    # A batch of 16 x 8 products of [512, 64] and [64, 128].
    (
      "window={size=16x8 stride=15x7 lhs_dilate=16x8}, ",
      "01bf_01io->01bf",
      *("16,8,512,64", "16,8,64,128", "16,8,512,128"),
      16 * 8 * 512 * 64 * 128,
    ),
    # The sum over 16 x 64 elements of a weight gradient.
    (
      "window={size=16}, ",
      "0fb_0io->bf0",
      *("16,64,32", "16,64,128", "32,128,1"),
      16 * 64 * 32 * 128,
    ),
    # A 3 x 3 convolution of a 5 x 5 image; the border is not multiplied.
    (
      "window={size=3x3 pad=1_1x1_1}, ",
      "b01f_01io->b01f",
      *("2,5,5,4", "3,3,4,8", "2,5,5,8"),
      2 * (3 * 5 - 2) ** 2 * 4 * 8,
    ),
    # Every second element only.
    (
      "window={size=2 stride=2}, ",
      "b0f_0io->b0f",
      *("1,6,4", "2,4,8", "1,3,8"),
      3 * 2 * 4 * 8,
    ),
    # A batch of 800,000 products of [4, 2] and [2, 3].
    (
      "window={size=800000 stride=799999 lhs_dilate=800000}, ",
      "0bf_0io->0bf",
      *("800000,4,2", "800000,2,3", "800000,4,3"),
      800_000 * 4 * 2 * 3,
    ),
  ],
)
def test_products_of_real_inputs_count(
  window, labels, lhs, kernel, out, products
):
  convolution = _convolution(window, labels, lhs, kernel, out)
  assert convolution.flops == 2 * products


def test_a_slice_moves_only_its_own_bytes():
  text = """\
%read (p0: f32[48,10], p1: s32[]) -> f32[1,10] {
  %p0 = f32[48,10]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %same = f32[48,10]{1,0} bitcast(%p0)
  ROOT %slice = f32[1,10]{1,0} dynamic-slice(%same, %p1, %p1)
}

%write (p0.1: f32[48,10], p1.1: f32[1,10], p2: s32[]) -> f32[48,10] {
  %p0.1 = f32[48,10]{1,0} parameter(0)
  %p1.1 = f32[1,10]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %put = f32[48,10]{1,0} dynamic-update-slice(%p0.1, %p1.1, %p2, %p2)
}

ENTRY %main (a: f32[48,10], i: s32[]) -> f32[48,10] {
  %a = f32[48,10]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %one = f32[1,10]{1,0} fusion(%a, %i), kind=kLoop, calls=%read
  %start = (f32[48,10]{1,0}, f32[48,10]{1,0:S(1)}, u32[]{:S(2)}) \
copy-start(%a)
  %done = f32[48,10]{1,0:S(1)} copy-done(%start)
  ROOT %all = f32[48,10]{1,0} fusion(%a, %one, %i), kind=kLoop, calls=%write
}
"""
  read, start, done, write = hlo.operations(text)
  assert read.hbm_bytes == 4 * (10 + 10 + 1)  # The index too.
  assert write.hbm_bytes == 4 * (10 + 10 + 1)
  assert (start.hbm_bytes, done.hbm_bytes) == (4 * 480 + 4, 0)


def test_copies_that_xla_adds_to_a_loop_belong_to_it():
  loop = "condition=%condition, body=%body"
  name = "jit(_fun)/jvp(perceiver)/encoder/block_0/while"
  text = _MODULE.replace(
    loop, f'{loop}, metadata={{op_name="{name}"}}'
  ).replace(
    "  %product",
    """\
  %space = f32[8,16]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %copy = bf16[8,4]{1,0:S(1)} copy(%x)
  %product""",
  )
  copy, product, total = hlo.operations(text)  # The allocation moves nothing.
  assert (copy.name, copy.scope, copy.count) == ("copy", name, 6)
  assert product.scope.endswith("/encoder/block_0/dot")
  assert total.scope == "jit(_fun)/psum"


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
    ("jit(_fun)/jvp(perceiver)/encoder/block_0/while", "encoder/block_0/scan"),
    (
      "jit(_fun)/transpose(jvp(perceiver))/encoder/block_0/while/body/"
      "closed_call/checkpoint/rematted_computation/self_attend/attention/"
      "dot_product_attention_chunked_512x512/bnhf,bmhf->bhnm/dot_general",
      "encoder/block_0/attention (backward)",
    ),
    (
      "jit(_fun)/jvp(perceiver)/encoder/block_0/while/body/closed_call/"
      "self_attend/attention/query/dot_general",
      "encoder/block_0/projections",
    ),
    (
      "jit(_fun)/jvp(perceiver)/encoder/block_0/while/body/closed_call/"
      "self_attend/mlp/output/dot_general",
      "encoder/block_0/mlp",
    ),
    (
      "jit(_fun)/jvp(perceiver)/encoder/cross_attend_0/attention/keys_values/"
      "attention/input_norm/reduce_sum",
      "encoder/cross_attend_0/norms",
    ),
    ("", "copies without a name"),
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
