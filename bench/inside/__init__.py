"""The code that runs on the kernel under test: labs, trials, checks and measurements.

Every import here costs time in an emulated guest, so this room imports only `bench.documents`, `bench.load`,
`scenarios` and `dataplanes`, and nothing heavy. A test checks it.
"""
