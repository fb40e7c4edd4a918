"""``python -m qemushim``"""

import sys

from qemushim.cli import program

sys.exit(program())
