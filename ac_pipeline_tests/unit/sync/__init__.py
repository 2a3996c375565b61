"""The engine on in-memory ports."""
