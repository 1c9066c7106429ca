"""Published data of HAWQ-V3 (arXiv 2011.10680) for ResNet-18, from its ILP notebook and bit_config.py.

https://github.com/Zhen-Dong/HAWQ. 19 convolutions in the order of execution, first convolution and classifier left out;
each shortcut convolution has the bits of the one whose output it is added to.
"""

import numpy as np

TRACES = """.06857826 .03162379 .03298575 .01205663 .02222431 .00596336 .06931772 .00807129 .00372905 .00530698
.00209011 .00737569 .00210454 .00151197 .00158041 .00078146 .00451841 .00098745 .00072944"""
"""Trace of the Hessian over the number of weights."""
ERRORS_8 = """.0235 .0125 .0102 .0082 .0145 .0344 .0023 .0287 .0148 .0333 .0682 .0027 .0448 .0336 .0576 .1130 .0102
.0947 .0532"""
"""Squared error of the weights at 8 bits."""
ERRORS_4 = """6.7430 3.9691 3.3281 2.6796 4.7277 10.5966 .6827 9.0942 4.8857 10.7599 21.7546 .8603 14.5324 10.9651
18.7706 36.4044 3.1572 29.6994 17.4016"""
WEIGHTS = """36864 36864 36864 36864 73728 147456 8192 147456 147456 294912 589824 32768 589824 589824 1179648 2359296
131072 2359296 2359296"""
MACS = """115605504 115605504 115605504 115605504 57802752 115605504 6422528 115605504 115605504 57802752 115605504
6422528 115605504 115605504 57802752 115605504 6422528 115605504 115605504"""
NANOSECONDS_4 = """210944.04 210926.74 211041.13 210868.51 136424.65 191675.06 25321.83 191482.03 191429.14 113953.16
205560.11 19174.74 205669.18 205665.09 131851.02 222877.86 17900.88 223046.11 222860.99"""
"""Latency at 4 bits on a T4, batch 8."""
NANOSECONDS_8 = """361891.11 362117.18 311419.09 304544.71 191848.96 389489.34 33416.90 389049.05 389285.90 191347.35
343074.31 28023.54 343133.29 343107.56 211171.03 373765.85 28968.43 373981.87 374051.85"""
TIED = ((4, 6), (9, 11), (14, 16))

PUBLISHED = {
    ("size", 0.25): ("8888888888888844444", 0.118300),
    ("size", 0.50): ("8888888888888884844", 0.074506),
    ("size", 0.75): ("8888888888888488884", 0.033441),
    ("bops", 0.25): ("8884848444444444444", 0.460424),
    ("bops", 0.50): ("8884888848884444444", 0.215689),
    ("bops", 0.75): ("8888888848888484884", 0.079965),
    ("latency", 0.25): ("8884848444444444444", 0.460424),
    ("latency", 0.50): ("8888848848884484844", 0.202674),
    ("latency", 0.75): ("8888888848888484884", 0.079965),
}
"""The bits of each convolution at a share of the way from all 4 to all 8 bits, and the sum of trace times error."""


def table(four: str, eight: str) -> np.ndarray:
    """[convolutions, 2 options]."""
    return np.array([four.split(), eight.split()], dtype=float).T


def merged(rows: np.ndarray) -> list[np.ndarray]:
    """One row per choice: the tied convolutions added up."""
    second = {b: a for a, b in TIED}
    found = {i: rows[i].copy() for i in range(len(rows)) if i not in second}
    for b, a in second.items():
        found[a] += rows[b]
    return list(found.values())


def unmerged(indices: tuple[int, ...]) -> str:
    """The bits of each convolution, from the option of each choice."""
    second = {b: a for a, b in TIED}
    first = [i for i in range(19) if i not in second]
    at = dict(zip(first, indices, strict=True))
    return "".join("48"[at[second.get(i, i)]] for i in range(19))
