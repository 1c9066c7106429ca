"""What a model computes: operations with the tensors they read and write, sizes only, no framework.

`graph/operations.py` reads it off the exported graph. An operation's cost depends on the formats of the sites of its
tensors and on nothing else, which is what makes costs tables.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property


class Kind(StrEnum):
    """What an operation does. The first five multiply matrices; the others move, add or normalise."""

    CONV = "conv"
    CONV_TRANSPOSED = "conv_transposed"
    LINEAR = "linear"
    MATMUL = "matmul"
    RECURRENT = "recurrent"
    SCALE = "scale"
    """Edge values times edge weights, node values times an attention vector: one product per element."""
    SPMM = "spmm"
    """Gather, multiply and scatter-add in one kernel."""
    EMBEDDING = "embedding"
    GATHER = "gather"
    SCATTER = "scatter"
    ELEMENTWISE = "elementwise"
    POOL = "pool"
    NORM = "norm"
    SOFTMAX = "softmax"
    COPY = "copy"

    @property
    def is_matrix(self) -> bool:
        """Whether it is a product of matrices (`Operation.gemm` is known)."""
        return self in (Kind.CONV, Kind.CONV_TRANSPOSED, Kind.LINEAR, Kind.MATMUL, Kind.RECURRENT)


@dataclass(frozen=True)
class Held:
    """A tensor: a parameter that is stored, or a value that is made while the model runs.

    Args:
        name: of the site, parameter or node; for people.
        elements: how many numbers.
        rows: how many rows it is stored in: output channels of a weight, nodes or positions of a value.
        float_bits: of one number as it is.
        site: name of the site that decides its format; None where it stays as it is.
        is_parameter: whether it is stored with the model.
    """

    name: str
    elements: int
    rows: int = 1
    float_bits: int = 32
    site: str | None = None
    is_parameter: bool = False


@dataclass(frozen=True)
class Access:
    """How an operation touches a tensor.

    Args:
        tensor: its place in `Workload.tensors`.
        elements: numbers that are read or written: fewer than it has where rows are looked up, more where gathered.
    """

    tensor: int
    elements: int


@dataclass(frozen=True)
class Gemm:
    """`count` products [m, k] x [k, n]: a convolution as its im2col form, one product per group.

    A transposed convolution is the product before its windows are added up: n holds the window, `window` is 1.

    Args:
        m: rows: positions and samples of the batch. n: output channels per group. k: length of the sum.
        count: groups, heads or batches that are multiplied apart.
        window: kernel positions (kh * kw), so that k / window are the input channels per group.
        stride: product of strides over the axes.
    """

    m: int
    n: int
    k: int
    count: int = 1
    window: int = 1
    stride: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all products."""
        return self.m * self.n * self.k * self.count

    @property
    def is_depthwise(self) -> bool:
        """Whether each group has one input channel, and there are several groups."""
        return self.count > 1 and self.window > 1 and self.k == self.window


@dataclass(frozen=True)
class Operation:
    """One step of the model on one batch.

    Args:
        name: module path (`layer1.0.conv1`), with the operator where a module has several.
        kind: what it does.
        reads, write: the tensors it touches, after reshapes and activation functions are taken as their source.
        macs: multiply-accumulates.
        weight, value: places in `reads` of the two operands of its products: the weight (key, probabilities, edge
            weight), and the activation. None where it multiplies nothing, by a plain constant, or by what never leaves
            the kernel (a state of a recurrent layer, or probabilities, without a choice), which is float32.
        gemm: sizes of its matrix product.
        is_first: whether its value is an input of the model.
        more_writes: further results: slices that have a format each, final states.
    """

    name: str
    kind: Kind
    reads: tuple[Access, ...]
    write: Access | None
    macs: int = 0
    weight: int | None = None
    value: int | None = None
    gemm: Gemm | None = None
    is_first: bool = False
    more_writes: tuple[Access, ...] = ()

    @property
    def writes(self) -> tuple[Access, ...]:
        """All results."""
        return (*((self.write,) if self.write else ()), *self.more_writes)

    @property
    def reduction(self) -> float:
        """How many products are added up to one number: on average, for a transposed convolution."""
        if self.gemm is None:
            return 1.0
        if self.kind is Kind.CONV_TRANSPOSED:
            return max(1.0, self.macs / sum(access.elements for access in self.writes))
        return self.gemm.k


@dataclass(frozen=True)
class Workload:
    """All operations of a model on one batch, in the order in which they run, and the tensors between them.

    Args:
        samples: of the batch.
        outputs: places of the tensors that the model returns.
    """

    tensors: tuple[Held, ...]
    operations: tuple[Operation, ...]
    samples: int = 1
    outputs: frozenset[int] = frozenset()

    def sites(self, operation: Operation) -> tuple[str, ...]:
        """Sites of all tensors that `operation` touches, each once, in the order of its reads, the result last."""
        names = (self.tensors[access.tensor].site for access in (*operation.reads, *operation.writes))
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def operand(self, operation: Operation, place: int | None) -> Held | None:
        """The tensor at `place` in the reads; None where there is none."""
        return None if place is None else self.tensors[operation.reads[place].tensor]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one batch."""
        return sum(operation.macs for operation in self.operations)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is computed: operations, sizes and their connections. Cards made for a model carry it."""
        told = hashlib.sha256()
        nouns: list[Held | Operation] = [*self.tensors, *self.operations]
        for noun in nouns:
            told.update(repr([getattr(noun, field.name) for field in fields(noun)]).encode())
        return told.hexdigest()
