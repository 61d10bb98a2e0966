"""python -m pyferrum_kv: the same command as pyferrum-kv."""

import sys

from pyferrum_kv.cli import main

sys.exit(main())
