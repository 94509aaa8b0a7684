"""What figures say: intervals, noise, differences between runs. No presentation, no kernel."""
