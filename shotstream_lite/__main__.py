"""`python -m shotstream_lite`: the `shotstream` command."""

import sys

from shotstream_lite.cli import main

if __name__ == "__main__":
    sys.exit(main())
