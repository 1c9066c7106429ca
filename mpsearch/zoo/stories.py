"""The 512-token vocabulary of stories260K and TinyStories text cut into stories."""

from __future__ import annotations

import heapq
import re
import struct
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.zoo.files import data_file
from mpsearch.zoo.llama import Llama, read_llama2c

START = 1  # the token every story begins with
_MODEL = "https://huggingface.co/karpathy/tinyllamas/resolve/main/stories260K/"
_COMMIT = "0e9893779c9e2048205ea1339eb588983d72adc1"
_TEXT = f"https://raw.githubusercontent.com/Niklas6/Mini_GPT/{_COMMIT}/tinystories.txt"


@cache
def model_file() -> Path:
    return data_file(
        "lm/stories260k/stories260K.bin",
        "the 260K-parameter llama2.c model of karpathy/tinyllamas",
        _MODEL + "stories260K.bin",
        "b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696",
    )


def model() -> Llama:
    """The published stories260K: 5 layers, width 64, 8 heads on 4 keys and values."""
    return read_llama2c(model_file())


class Tokenizer:
    """Byte-pair merging by score, in the file format of llama2.c.

    Args:
        path: int32 maximum length, then for each token float32 score, int32 byte length and its bytes.
    """

    def __init__(self, path: Path) -> None:
        content, at, self.scores, self.tokens = path.read_bytes(), 4, [], []
        try:
            while at < len(content):
                score, length = struct.unpack_from("<fi", content, at)
                self.scores.append(score)
                self.tokens.append(content[at + 8 : at + 8 + length])
                at += 8 + length
        except struct.error:
            raise BadInput(f"{path} is not a llama2.c tokenizer: it ends inside a token.") from None
        self.ids = {token: i for i, token in reversed(list(enumerate(self.tokens)))}

    def encode(self, text: str) -> list[int]:
        """Token ids: the start token, then a space and the text with the best-scoring neighbours merged."""
        ids = [self.ids[b" "]]
        for character in text:
            known = self.ids.get(character.encode())
            ids += [byte + 3 for byte in character.encode()] if known is None else [known]
        end = len(ids)
        following, preceding = list(range(1, end + 1)), list(range(-1, end - 1))
        waiting: list[tuple[float, int, int, int, int]] = []

        def consider(at: int) -> None:
            """Queue the merge of the tokens at `at` and after it, if that is a token."""
            if at >= 0 and following[at] < end:
                left, right = ids[at], ids[following[at]]
                merged = self.ids.get(self.tokens[left] + self.tokens[right])
                if merged is not None:
                    heapq.heappush(waiting, (-self.scores[merged], at, left, right, merged))

        for at in range(end):
            consider(at)
        while waiting:  # the best score first, of equal ones the leftmost
            _, at, left, right, merged = heapq.heappop(waiting)
            gone = following[at]
            if gone < end and (ids[at], ids[gone]) == (left, right):
                ids[at], ids[gone], following[at] = merged, -1, following[gone]
                if following[at] < end:
                    preceding[following[at]] = at
                consider(preceding[at])
                consider(at)
        return [START, *(token for token in ids if token >= 0)]


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(
        data_file(
            "lm/stories260k/tok512.bin",
            "the 512-token vocabulary of karpathy/tinyllamas",
            _MODEL + "tok512.bin",
            "037cb335abb25d1fa9e8ecae30ed2a3a8ace9302862ebcdc05d51a6bbb10c312",
        )
    )


@cache
def stories() -> tuple[str, ...]:
    """ASCII stories of 200 to 1,500 characters, in the order of the file."""
    path = data_file(
        "text/tinystories/tinystories_197k.txt",
        "a cut of TinyStories, CDLA-Sharing-1.0",
        _TEXT,
        "727e8b228375be3075114c20729c93ed6e81ae5d8fe7faf7cb54b304f0322d70",
    )
    parts = re.split(r"\n\s*\n(?=Once upon a time)", path.read_text(encoding="utf-8"))
    kept = (part.strip() for part in parts[1:])  # what comes before the first story of that kind is left out
    return tuple(part for part in kept if part.isascii() and 200 <= len(part) <= 1500)


@cache
def tokens(length: int = 512) -> tuple[Tensor, Tensor]:
    """Token ids of every story, cut or filled with 0 to [stories, length], and which of them are real."""
    rows = [tokenizer().encode(story)[:length] for story in stories()]
    real = torch.tensor([[at < len(row) for at in range(length)] for row in rows])
    return torch.tensor([row + [0] * (length - len(row)) for row in rows]), real
