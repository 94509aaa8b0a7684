"""Runs the program for `python -m bench`."""

from bench.start import main

main()
