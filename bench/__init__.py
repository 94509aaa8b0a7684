"""The program: command line, kernels, trials, statistics, reports."""

__version__ = "0.1.0"
