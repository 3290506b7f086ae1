"""Our numbers beside the released implementation's: `python -m tests.parity tests/golden`, or any folder and device."""

import argparse
import sys
from pathlib import Path

from shotstream_lite.errors import ShotStreamError
from shotstream_lite.models.placement import check_device

from . import report_text, run


def main(arguments: list[str] | None = None) -> int:
    """Prints a row for each recorded result; 0, 1 if any is further off than the tolerance, 2 for a bad folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("folder", type=Path, help="recorded numbers: config.json and safetensors files")
    parser.add_argument("--device", default="cpu", help="where ours are computed (default: cpu)")
    options = parser.parse_args(arguments)
    try:
        rows = run(options.folder, check_device(options.device))
    except ShotStreamError as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2
    print(report_text(rows))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
