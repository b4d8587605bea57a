"""The door to MegaFace's own files: `python -m megaface_eval.devkit --help`; the work is done in `formats.devkit`."""

import sys

from megaface_eval.formats.devkit import main

if __name__ == "__main__":
    sys.exit(main())
