"""The program: command line, kernels, trials, analysis, reports."""

__version__ = "0.2.0"
