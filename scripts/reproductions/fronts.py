"""Post-training fronts of four networks: formats of weights and of values chosen together, one page each.

For each network: `frontier` and random search of the same budget and seeds minimise the loss within so many average
bits of weights and of values. Everything is chosen on validation data; float, the best at 4 and 3 bits of the same bits
everywhere and of both drivers, and members of the front are then scored once on the test split. Beside them stands
what other formats and rules do at 4 and 3 bits.

Pages lie in docs/results. Ledgers are kept under `--out`: what was interrupted goes on from them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pareto.cases import CASES, ROOT
from pareto.page import Page
from pareto.searched import Searched
from pareto.sweep import sweep


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="scripts/reproduce fronts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=[], help=f"of {', '.join(CASES)}; all if none is named")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "fronts", help="folder of the ledgers")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "results", help="folder of the pages")
    parser.add_argument("--only-fronts", action="store_true", help="leave out what other formats do")
    asked = parser.parse_args(arguments)
    if unknown := sorted(set(asked.names) - set(CASES)):
        parser.error(f"{', '.join(unknown)} is not known; allowed: {', '.join(CASES)}")
    figures: dict[str, Any] = {}
    for name in asked.names or CASES:
        print(f"{name}:", flush=True)
        page = Page(name, Searched(CASES[name], asked.out))
        page.write(asked.docs, {})
        if not asked.only_fronts:
            page.write(asked.docs, sweep(CASES[name], asked.out))
        figures |= {f"{name} {point}": page.drop(found) for point, found in page.points.items()}
        for (bits, driver), volumes in page.volumes.items():
            figures[f"{name} within {bits:g} bits: hypervolume of {driver}"] = volumes
    return figures
