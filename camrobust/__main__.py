"""`python -m camrobust`: the console command."""

import sys

from camrobust.interface.cli import main

sys.exit(main())
