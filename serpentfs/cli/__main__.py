"""``python -m serpentfs.cli``: the command where its script is not to be found."""

import sys

from serpentfs.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
