"""The kernel under test: the host's own, or one booted in a guest. Both run a command and look alike from outside."""

from bench.kernels.base import Command, Kernel
from bench.kernels.choice import expand, list_kernels, resolve
from bench.kernels.packages import headers

__all__ = ["Command", "Kernel", "expand", "headers", "list_kernels", "resolve"]
