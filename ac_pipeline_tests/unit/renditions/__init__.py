"""Tests of derived media: pictures, tapes, videos and what joins them."""
