"""Language modelling: loss and perplexity of stories260K, a Llama of 260,032 weights, on TinyStories."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.zoo import stories
from mpsearch.zoo.options import in_parts, whole

_ROWS = {"test": slice(0, 60), "validation": slice(60, 84), "calibration": slice(84, 92)}


class LanguageModel(Objective):
    """Measures `log_loss` (nats a token), `perplexity` and `accuracy` (next token).

    Stories are cut or filled to one length; filled places are not scored, and with causal attention nothing
    before them sees them. The standard error of `log_loss` takes tokens as independent, so it is a little small.

    Args:
        length: tokens of a story, at most 512, the start token included.
        batch_size: stories in a batch, at least 2.
    """

    def __init__(self, length: int = 512, batch_size: int = 4) -> None:
        self.length = whole("length", length, least=2, most=512)
        self.batch_size = whole("batch_size", batch_size, least=2)

    def model(self) -> nn.Module:
        return stories.model()

    def batches(self, split: Split) -> Iterable[Batch]:
        tokens, real = (part[_ROWS[split]] for part in stories.tokens(self.length))
        for rows in in_parts(len(tokens), self.batch_size):
            yield Batch((tokens[rows, :-1],), (tokens[rows, 1:], real[rows, 1:]), len(rows))

    def metric(self, outputs: Sequence[Tensor], targets: Sequence[tuple[Tensor, Tensor]]) -> Scores:
        logits = torch.cat([output[real] for output, (_, real) in zip(outputs, targets, strict=True)])
        tokens = torch.cat([tokens[real] for tokens, real in targets])
        losses = F.cross_entropy(logits, tokens, reduction="none")
        return {
            "log_loss": losses,
            "perplexity": math.exp(losses.double().mean()),
            "accuracy": (logits.argmax(1) == tokens).float(),
        }

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        tokens, real = batch.target
        return F.cross_entropy(output[real], tokens[real])
