"""Finds a reproduction by its name, a file beside this one with `main(arguments) -> dict`; prints what it returns."""

import importlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    names = sorted(path.stem for path in HERE.glob("*.py") if path != Path(__file__).resolve())
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        print(f"usage: scripts/reproduce NAME [options]; NAME is one of: {', '.join(names)}", file=sys.stderr)
        return 2
    print(json.dumps(importlib.import_module(sys.argv[1]).main(sys.argv[2:])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
