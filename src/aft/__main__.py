"""``python -m aft`` is ``aft``."""

import sys

from aft.cli import main

sys.exit(main())
