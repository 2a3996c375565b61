"""The AT Protocol as this project speaks it: identifiers, lexicons, repositories, and a client for one PDS."""
