"""What has to happen to one account: documents against records, without any writing."""
