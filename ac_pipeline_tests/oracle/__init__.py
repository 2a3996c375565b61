"""The protocol's own record validator (npm), to compare ours with."""
