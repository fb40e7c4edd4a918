"""``python -m qemushim``"""

import sys

from qemushim.cli import main

sys.exit(main())
