"""The sensors: each watches one thing and asks for runs. What they decide is in pure modules beside them."""
