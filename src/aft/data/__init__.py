"""Read data sets from folders, tables and the Hugging Face hub; check them and split them."""

from aft.config.groups import LEFT_OUT, NOTHING
from aft.data.findings import DataReport
from aft.data.images import open_image
from aft.data.loading import DataSet, load_data, load_inputs, sample_ids
from aft.data.readers.find_columns import Columns, InputColumn
from aft.data.samples import Samples, match_columns
from aft.data.unlabelled import concatenate
from aft.data.views import make_views
from aft.ids import content_id, default_cache_dir
from aft.tasks import Task

__all__ = [
    "LEFT_OUT",
    "NOTHING",
    "Columns",
    "DataReport",
    "DataSet",
    "InputColumn",
    "Samples",
    "Task",
    "concatenate",
    "content_id",
    "default_cache_dir",
    "load_data",
    "load_inputs",
    "make_views",
    "match_columns",
    "open_image",
    "sample_ids",
]
