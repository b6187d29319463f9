"""Data sets: one file per data set, a table from name to loader."""

from abscert_plugin.data.dataset import ArraySource, Batch, DataSet, ImageSource, Split
from abscert_plugin.data.request import DATA_VARIABLE, DataRequest, DataSetEntry
from abscert_plugin.data.table import DATA_SETS, data_entry, load_data

__all__ = [
    "DATA_SETS",
    "DATA_VARIABLE",
    "ArraySource",
    "Batch",
    "DataRequest",
    "DataSet",
    "DataSetEntry",
    "ImageSource",
    "Split",
    "data_entry",
    "load_data",
]
