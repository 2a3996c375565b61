"""What is there and how it compares, item by item and user by user; each finding has a state and a repair."""
