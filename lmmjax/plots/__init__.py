"""Pictures of data, of fits, of inference and of posterior draws with matplotlib.

Each function draws into `ax`, by default a new figure's, and returns the Axes.
"""

from .data import box, interaction, jitter, pairs, series, signal_to_noise
from .draws import acf, density, trace
from .fits import caterpillar, qq, residuals, scale_location, slopes
from .inference import bootstrap, power, profile, profile_pairs

__all__ = [
    "acf",
    "bootstrap",
    "box",
    "caterpillar",
    "density",
    "interaction",
    "jitter",
    "pairs",
    "power",
    "profile",
    "profile_pairs",
    "qq",
    "residuals",
    "scale_location",
    "series",
    "signal_to_noise",
    "slopes",
    "trace",
]
