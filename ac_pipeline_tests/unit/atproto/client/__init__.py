"""The client of one PDS against a scripted server. The same port on a real PDS: `contract/test_data_server.py`."""
