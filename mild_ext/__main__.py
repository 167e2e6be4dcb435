"""``python -m mild_ext``."""

import sys

from mild_ext.cli import main

sys.exit(main())
