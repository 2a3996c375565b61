"""Derived media: thumbnails and MP4s, and the store they are kept in."""
