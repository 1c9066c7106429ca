"""Runs what is named, a file of a folder beside this one with `main(arguments) -> dict`; prints what it returns."""

import importlib
import json
import sys
from pathlib import Path

COMMANDS = {"benchmarks": "scripts/bench", "reproductions": "scripts/reproduce"}


def main(folder: str, *arguments: str) -> int:
    path = Path(__file__).resolve().parent / folder
    names = sorted(file.stem for file in path.glob("*.py"))
    if not arguments or arguments[0] not in names:
        print(f"usage: {COMMANDS[folder]} NAME [options]; NAME is one of: {', '.join(names)}", file=sys.stderr)
        return 2
    sys.path.insert(0, str(path))
    print(json.dumps(importlib.import_module(arguments[0]).main(list(arguments[1:]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
