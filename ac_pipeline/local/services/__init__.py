"""Services for a developer's machine: MongoDB, PDS and media, started and stopped by process id."""
