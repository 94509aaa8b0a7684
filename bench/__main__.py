"""`python -m bench` is `bench`."""

from bench.start import main

main()
