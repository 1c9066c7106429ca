"""The affine grid against torch's fake quantization, onnxruntime and its own invariants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.grain import Grain
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def half_steps(scale: float, count: int = 1 << 14) -> Tensor:
    """Multiples of half a step: every second one is a tie."""
    return (torch.arange(count) - count // 2) * (scale / 2)


def per_tensor(scale: float, zero_point: int, qmin: int, qmax: int, bits: int = 8) -> AffineGrid:
    return AffineGrid(bits, qmin, qmax, torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), Grain())


@given(
    scale=st.floats(1e-4, 1e2),
    zero_point=st.integers(0, 255),
    signed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_per_tensor_equals_torch_bit_for_bit(scale: float, zero_point: int, signed: bool, seed: int) -> None:
    shift = 128 if signed else 0
    scale = float(torch.tensor(scale))
    x = torch.cat((half_steps(scale, 1024), 100 * scale * normal(1000, seed=seed)))
    grid = per_tensor(scale, zero_point - shift, -shift, 255 - shift)
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero_point - shift, -shift, 255 - shift)
    assert torch.equal(grid.round_trip(x), expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_per_channel_equals_torch_bit_for_bit(axis: int, bits: int) -> None:
    x = 3 * normal(6, 5, 4, 7)
    channels = x.shape[axis]
    scale = normal(channels, seed=1).abs() / 2**bits + 1e-3
    zero_point = torch.arange(channels, dtype=torch.int32) % 2**bits
    grid = AffineGrid(bits, 0, 2**bits - 1, scale, zero_point, Grain(axis))
    expected = torch.fake_quantize_per_channel_affine(x, scale, zero_point, axis % 4, 0, 2**bits - 1)
    assert torch.equal(grid.round_trip(x), expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "strided", "empty"])
@pytest.mark.parametrize("threads", [1, 2])
def test_large_tensors_in_pieces_equal_torch(layout: str, threads: int) -> None:
    x = normal(37, 16, 17, 19)  # several pieces and a rest
    x = {
        "contiguous": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.permute(2, 0, 3, 1),
        "strided": normal(37, 16, 17, 38)[..., ::2],
        "empty": x[:0],
    }[layout]
    grid = per_tensor(0.0137, 3, 0, 255)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y = grid.round_trip(x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(y, torch.fake_quantize_per_tensor_affine(x, float(grid.scale), 3, 0, 255))
    assert y.stride() == torch.empty_like(x).stride()
    assert torch.equal(grid.round_trip_(x.clone()), y)
    other = torch.empty(x.shape)
    assert grid.round_trip(x, out=other) is other
    assert torch.equal(other, y)


def ort_codes(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """Codes of onnxruntime's QuantizeLinear, uint8."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    constants = [
        helper.make_tensor("s", kind.FLOAT, [], [scale]),
        helper.make_tensor("z", kind.UINT8, [], [zero_point]),
    ]
    ends = [helper.make_tensor_value_info(n, t, [len(x)]) for n, t in (("x", kind.FLOAT), ("q", kind.UINT8))]
    graph = helper.make_graph([node], "quantize", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize("zero_point", [0, 3, 128])
def test_codes_equal_onnxruntime_but_for_ties(zero_point: int) -> None:
    scale = 0.0137
    x = torch.cat((normal(50_000), half_steps(scale)))
    ours, theirs = per_tensor(scale, zero_point, 0, 255).codes(x), ort_codes(x, scale, zero_point).int()
    tie = ((x / scale).frac().abs() - 0.5).abs() < 1e-3
    assert torch.equal(ours[~tie], theirs[~tie])
    assert (ours - theirs).abs().max() <= 1
    assert tie.any()


@given(bits=st.integers(2, 8), scale=st.floats(1e-3, 10), sign=st.sampled_from([1, -1]), seed=st.integers(0, 9))
def test_invariants_of_a_symmetric_grid(bits: int, scale: float, sign: int, seed: int) -> None:
    top = 2 ** (bits - 1) - 1
    grid = AffineGrid(bits, -top, top, torch.tensor(sign * scale), None, Grain())
    x = (scale * top * normal(512, seed=seed)).sort().values
    y = grid.round_trip(x)
    inside = x.abs() <= scale * top
    assert (y - x).abs()[inside].max() <= scale / 2 * (1 + 1e-5)
    assert (y.diff() >= 0).all(), "monotone"
    assert torch.equal(grid.round_trip(-x), -y)
    assert grid.round_trip(torch.zeros(1)) == 0
    assert len(y.unique()) <= 2 * top + 1


def test_groups_equal_torch_per_channel_on_the_groups() -> None:
    x = normal(4, 3, 5)  # 15 per channel: groups of 4, 4, 4 and 3
    scale = normal(4, 4, seed=1).abs() + 0.1
    y = AffineGrid(4, -7, 7, scale, None, Grain(0, 4)).round_trip(x).reshape(4, 15)
    zeros = torch.zeros(4, dtype=torch.int32)
    for g, part in enumerate(x.reshape(4, 15).split(4, dim=1)):
        expected = torch.fake_quantize_per_channel_affine(part, scale[:, g].contiguous(), zeros, 0, -7, 7)
        assert torch.equal(y[:, 4 * g : 4 * g + 4], expected)


def test_integer_products_give_the_affine_expansion() -> None:
    """s_x s_w * (sum xq wq - z_x sum wq), accumulated in integers, is the product of the round trips."""
    x, w = normal(5, 40), normal(6, 40, seed=1)
    activations = per_tensor(0.021, 119, 0, 255)
    weights = AffineGrid(4, -7, 7, normal(6, seed=2).abs() + 0.1, None, Grain(0))
    xq, wq = activations.codes(x).long(), weights.codes(w).long()
    accumulated = xq @ wq.T - 119 * wq.sum(dim=1)
    assert torch.equal(accumulated, (xq - 119) @ wq.T)
    got = accumulated.double() * (activations.scale.double() * weights.scale.double())
    expected = activations.round_trip(x).double() @ weights.round_trip(w).double().T
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_bits_by_hand() -> None:
    scale, zero = torch.ones(10), torch.zeros(10, dtype=torch.int32)
    grid = AffineGrid(3, 0, 7, scale, zero, Grain(0))
    assert grid.code_bits((10, 5)) == 150
    assert grid.nbits((10, 5)) == 8 * (19 + 40 + 4)  # 150 bits of codes, 10 floats, 30 bits of zero points
    assert AffineGrid(2, -2, 1, torch.ones(()), None, Grain()).nbits((3, 3)) == 8 * (3 + 4)


@settings(max_examples=60)
@given(bits=st.integers(1, 16), count=st.integers(0, 300), seed=st.integers(0, 99))
def test_packing_gives_codes_back(bits: int, count: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    stream = pack_codes(codes, bits)
    assert stream.dtype == torch.uint8
    assert len(stream) == packed_bytes(count, bits) == -(-count * bits // 8)
    assert torch.equal(unpack_codes(stream, bits, count), codes)
    number = sum(int(c) << (i * bits) for i, c in enumerate(codes))  # the layout, by big integers
    assert stream.numpy().tobytes() == number.to_bytes(len(stream), "little")


def test_packing_goes_in_blocks() -> None:
    codes = torch.arange((1 << 20) + 5, dtype=torch.int32) % 8
    stream = pack_codes(codes, 3)
    assert torch.equal(unpack_codes(stream, 3, len(codes)), codes)


def test_four_bits_lie_as_integer_kernels_expect() -> None:
    assert pack_codes(torch.tensor([[1, 2], [3, 15]]), 4).tolist() == [0x21, 0xF3]
