"""The program's own process: it plans the work, chooses a kernel, hands out jobs and gathers their events.

It runs in the user's own Python. It never imports `bench.inside`, but starts it, on the host or in a guest.
"""
