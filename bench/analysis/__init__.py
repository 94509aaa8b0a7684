"""Conclusions from figures: intervals, noise, differences between runs. It has no presentation, and knows no kernel."""
