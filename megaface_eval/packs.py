"""The door to ten-fold verification: `python -m megaface_eval.packs --help`; the work is done in `formats.packs`."""

import sys

from megaface_eval.formats.packs import main

if __name__ == "__main__":
    sys.exit(main())
