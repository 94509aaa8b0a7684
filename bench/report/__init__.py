"""`bench report` and `bench answer`: result and matrix documents as pages people decide from."""
