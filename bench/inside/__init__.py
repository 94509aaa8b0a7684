"""The code that runs on the kernel under test: labs, trials, checks and measurements.

Every import here costs time in an emulated guest, so this room imports only `bench.documents`, `bench.load`,
`scenarios` and `dataplanes`, and nothing heavy. A test checks it.
"""

import sys

from dataplanes.kernel.lazy import import_without

if sys.version_info >= (3, 11):  # its typing has all that msgspec needs
    # If typing_extensions is there, msgspec imports it, and with it inspect, ast, dis and tokenize.
    import_without("msgspec", "typing_extensions")
