"""Who has work: the change stream, and comparing, on a real MongoDB."""
