"""An S3 server for tests: moto's, on a port of this machine, in a thread of the worker."""

from __future__ import annotations

import uuid

import fsspec
from moto.server import ThreadedMotoServer


class S3Server:
    """One server. Every test has buckets of its own."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.settings = {
            "AWS_ACCESS_KEY_ID": "key-of-the-tests",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        """By the names of our settings, which are those of any S3 client."""

    def make_bucket(self) -> str:
        """The URL of a folder in a new bucket."""
        bucket = f"renditions-{uuid.uuid4().hex[:12]}"
        fsspec.filesystem(
            "s3",
            key=self.settings["AWS_ACCESS_KEY_ID"],
            secret=self.settings["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.settings["AWS_ENDPOINT_URL"],
        ).mkdir(bucket)
        return f"s3://{bucket}/folder"

    def close(self) -> None:
        self._server.stop()
