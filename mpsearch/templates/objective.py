"""Your model, its data and how to score it. `space.yaml` beside it says what to search."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from mpsearch.problem.objective import Batch, Objective


class Digits(Objective):
    trains = True  # the weights that model() trains are kept with the run

    def __init__(self, hidden: int = 32):
        self.hidden = hidden
        self.x, self.y = map(torch.as_tensor, load_digits(return_X_y=True))
        self.x = self.x.float() / 16
        rows = torch.randperm(1797, generator=torch.Generator().manual_seed(0)).split([900, 97, 400, 400])
        self.rows = dict(zip(("training", "calibration", "validation", "test"), rows, strict=True))

    def model(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(200):
            optimizer.zero_grad()
            cross_entropy(model(self.x[self.rows["training"]]), self.y[self.rows["training"]]).backward()
            optimizer.step()
        return model.eval()

    def batches(self, split):
        rows = self.rows[split]
        yield Batch((self.x[rows],), self.y[rows], n=len(rows))

    def metric(self, outputs, targets):
        logits, labels = torch.cat(outputs), torch.cat(targets)
        return {"accuracy": (logits.argmax(1) == labels).float()}  # one score per sample: gives a standard error
