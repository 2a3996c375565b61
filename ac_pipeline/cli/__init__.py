"""The command line, thin over the same code as the assets."""
