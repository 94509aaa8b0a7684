"""The commands `bench report` and `bench answer`: result and matrix documents as pages for decisions."""
