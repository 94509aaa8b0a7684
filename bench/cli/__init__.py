"""The command line: options in, one call, output.

Runs in the user's own Python, where heavy imports are allowed. A command imports what it needs when it is called.
"""
