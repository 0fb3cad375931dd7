"""`python -m maskrcnn`."""

from __future__ import annotations

import sys

from maskrcnn.cli import main

sys.exit(main())
