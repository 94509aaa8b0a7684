"""Preparations before a kernel boots, whose results are cached: checks of prerequisites, compiled programs."""
