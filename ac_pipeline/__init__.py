"""Aesthetic Computer's media, carried from MongoDB to an ATProto PDS."""
