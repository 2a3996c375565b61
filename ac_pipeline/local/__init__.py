"""Services and demo data for a developer's machine; never imported by production code."""
