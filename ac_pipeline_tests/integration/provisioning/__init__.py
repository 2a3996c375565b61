"""PDS accounts for users of the platform, on real services."""
