"""Write a data set of the benchmarks to a folder.

python benchmarks/make_data.py NAME FOLDER
"""

from __future__ import annotations

import sys

from aft.demo_data.__main__ import main
from data_sets import DATA_SETS

if __name__ == "__main__":
    sys.exit(main(None, DATA_SETS, "python benchmarks/make_data.py NAME FOLDER"))
