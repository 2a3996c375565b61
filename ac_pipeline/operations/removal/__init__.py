"""Taking work off the PDS and bringing it back: snapshots, the wipe, the restore."""
