"""mpsearch: which precision where, as a verified Pareto front."""

__version__ = "0.1.0"
