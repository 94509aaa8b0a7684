"""What is made before a kernel is booted, once, and kept in the cache: checks of prerequisites, compiled programs."""
