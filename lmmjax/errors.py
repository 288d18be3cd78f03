"""Exceptions and warnings of the package, all importable from the top level."""


class LmmError(ValueError):
    """Base of every error that lmmjax raises about its input."""


class FormulaError(LmmError):
    """The formula text, or a name in it, cannot be turned into a model."""


class DataError(LmmError):
    """The data cannot carry the model: missing, infinite, constant, too few rows, unknown levels."""


class ConvergenceWarning(UserWarning):
    """The optimiser stopped at a point that its certificate does not show to be an optimum."""


class PrecisionWarning(UserWarning):
    """Float64 input meets a JAX that computes in 32 bits."""


class DroppedWarning(UserWarning):
    """Columns of X that other columns determine, or levels without a regression, were left out; it names them."""


class StudyWarning(UserWarning):
    """Some scenarios of a simulation study failed, or parts of its store were damaged and computed again."""
