"""`python -m streamfold.bench`."""

import sys

from streamfold.bench.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
