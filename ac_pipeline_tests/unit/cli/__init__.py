"""Parts of the command line, alone."""
