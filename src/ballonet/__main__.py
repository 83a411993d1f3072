"""``python -m ballonet``."""

import sys

from ballonet.cli.main import main

sys.exit(main())
