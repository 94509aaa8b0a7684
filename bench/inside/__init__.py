"""What runs on the kernel under test: labs, trials, checks and measurements.

Every import here is paid for in an emulated guest, so this room imports only `bench.documents`, `bench.load`,
`scenarios` and `dataplanes`, and nothing heavy. A test holds that.
"""
