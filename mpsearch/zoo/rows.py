"""A recurrent network that reads an image row by row, from top to bottom."""

from __future__ import annotations

from torch import Tensor, nn


class RowReader(nn.Module):
    """Grey images [n, 1, rows, columns] to logits, from the hidden state after the last row.

    Args:
        kind: of recurrent layer: `nn.LSTM` or `nn.GRU`.
        columns: pixels of a row.
        width: of the hidden state.
        layers: recurrent layers.
        classes: logits.
    """

    def __init__(
        self, kind: type[nn.LSTM] | type[nn.GRU], columns: int = 8, width: int = 32, layers: int = 2, classes: int = 10
    ) -> None:
        super().__init__()
        self.rnn = kind(columns, width, layers, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.flatten(1, 2))[0][:, -1])
