"""Graph neural networks of two or three layers, as in the papers they come from.

GCN: Kipf and Welling, "Semi-supervised classification with graph convolutional networks" (2017).
GAT: Velickovic et al., "Graph attention networks" (2018).
AGNN: Thekumparampil et al., "Attention-based graph neural network for semi-supervised learning" (arXiv 1803.03735).
GIN: Xu et al., "How powerful are graph neural networks?" (2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import AGNNConv, GATConv, GCNConv, GINConv, global_add_pool


class GCN(nn.Module):
    """Node features [n, inputs] and edges [2, e] to logits [n, classes]."""

    def __init__(self, inputs: int, hidden: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv1, self.conv2 = GCNConv(inputs, hidden), GCNConv(hidden, classes)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.relu(self.conv1(_dropout(x, self.dropout, self.training), edge_index))
        return self.conv2(F.dropout(x, self.dropout, self.training), edge_index)


class GAT(nn.Module):
    """Node features [n, inputs] and edges [2, e] to logits [n, classes]; `hidden` features a head."""

    def __init__(self, inputs: int, hidden: int, classes: int, heads: int = 8, dropout: float = 0.6) -> None:
        super().__init__()
        self.conv1 = GATConv(inputs, hidden, heads, dropout=dropout)
        self.conv2 = GATConv(hidden * heads, classes, heads=1, concat=False, dropout=dropout)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.elu(self.conv1(_dropout(x, self.dropout, self.training), edge_index))
        return self.conv2(F.dropout(x, self.dropout, self.training), edge_index)


class AGNN(nn.Module):
    """Node features [n, inputs] and edges [2, e] to logits [n, classes]: two rounds of attention between linear layers.

    The first round weighs neighbours by their likeness alone, the second learns how much that counts.
    """

    def __init__(self, inputs: int, hidden: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(inputs, hidden), nn.Linear(hidden, classes)
        self.conv1, self.conv2 = AGNNConv(requires_grad=False), AGNNConv(requires_grad=True)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.relu(self.lin1(_dropout(x, self.dropout, self.training)))
        x = self.conv2(self.conv1(x, edge_index), edge_index)
        return self.lin2(F.dropout(x, self.dropout, self.training))


class GIN(nn.Module):
    """A fixed number of graphs to a row of logits each: three rounds of messages, then a sum over nodes.

    Args:
        graphs: graphs in every batch. Fixed, because pooling needs a size that the data do not decide.
    """

    def __init__(self, inputs: int, hidden: int, classes: int, graphs: int) -> None:
        super().__init__()
        self.conv1 = GINConv(_perceptron(inputs, hidden), train_eps=True)
        self.conv2 = GINConv(_perceptron(hidden, hidden), train_eps=True)
        self.conv3 = GINConv(_perceptron(hidden, hidden), train_eps=True)
        self.head = nn.Linear(hidden, classes)
        self.graphs = graphs

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """`x` [n, inputs], `edge_index` [2, e], `batch` [n] (graph of a node) to logits [graphs, classes]."""
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu(conv(x, edge_index))
        return self.head(global_add_pool(x, batch, size=self.graphs))


def _dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Dropout of features as they are given: of bags of words only what is not zero is drawn for, many times faster."""
    if not training or x.count_nonzero() > x.numel() // 10:
        return F.dropout(x, share, training)
    given = x.nonzero(as_tuple=True)
    return torch.zeros_like(x).index_put_(given, F.dropout(x[given], share))


def _perceptron(inputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
    )
