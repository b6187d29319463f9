"""The error tree. Every error that a user can cause is an `AbscertError` with a one-line message."""


class AbscertError(Exception):
    """Root of all errors of this project: bad input, never a bug. The CLI prints it and exits with status 2."""


class GridError(AbscertError):
    """A grid that cannot exist, or pixels that lie outside its domain."""


class ConfigError(AbscertError):
    """An option, or a combination of options, that has no meaning."""


class DataError(AbscertError):
    """A data set that is missing, corrupt, or does not fit the model."""


class UnsupportedModelError(AbscertError):
    """An ONNX file or network that cannot be read, run, exported or put under abstraction."""


class ExportError(AbscertError):
    """An exported ONNX file that does not compute what its source computes; nothing was written."""


class CheckpointError(AbscertError):
    """A checkpoint that is missing, corrupt, or belongs to another configuration."""


class TrainingError(AbscertError):
    """A training that cannot go on, such as a loss that is not a number."""


class VerifierError(AbscertError):
    """A verification that cannot be run as asked."""


class BoundDefectError(AbscertError):
    """A bound that the file itself contradicts: what computed it is wrong, so no verdict may rest on it."""


class RecordError(AbscertError):
    """A records file or run.json that cannot be read or written."""


class MissingPackageError(AbscertError):
    """A package that only this call needs and that is not installed."""


class QueryError(AbscertError):
    """A VNN-LIB query that cannot be read, has no meaning, or does not fit its network."""
