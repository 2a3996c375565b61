"""The resources: settings in, plain objects out. Nothing is read or connected when this module is imported."""

from collections.abc import Iterator

import dagster as dg
import httpx

from ac_pipeline.defs.alerts.delivery import AlertDelivery, Webhook
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.redaction import Redactor
from ac_pipeline.settings import Settings, load_settings

PIPELINE = "pipeline"
ALERTS = "alerts"
"""Keys of the resources; tests put objects of their own in their place."""

DELIVERY_SECONDS = 25.0
"""For all messages of one tick, which has 60 seconds (Dagster facts, "Sensors, automation, pools")."""


def _told(context: dg.InitResourceContext) -> Settings:
    """The settings, once the log of the run says where they lead. The ticks of sensors do not repeat it."""
    settings = load_settings()
    if context.run is not None and context.log is not None:
        context.log.info(f"This run works on {settings.destination}.")
    return settings


@dg.resource(description="Accounts, documents, ledger, renditions and PDS, as the environment and .env name them.")
def pipeline_resource(context: dg.InitResourceContext) -> Iterator[PipelineResource]:
    """One pipeline for each run or tick, opened when it is first used, closed with the run or tick."""
    with PipelineResource(lambda: _told(context)) as pipeline:
        yield pipeline


@dg.resource(description="Where alerts go: AC_ALERT_WEBHOOK_URL, with links to AC_DAGSTER_URL.")
def alerts_resource(_: dg.InitResourceContext) -> Iterator[AlertDelivery]:
    """The way out of one tick's alerts."""
    settings = load_settings()
    redact = Redactor(settings.secrets())
    url = settings.ac_alert_webhook_url
    if url is None:
        yield AlertDelivery(settings.ac_dagster_url, redact, None)
        return
    with Webhook(url, DELIVERY_SECONDS, transport=settings.proxies.transport(httpx.Limits())) as webhook:
        yield AlertDelivery(settings.ac_dagster_url, redact, webhook)
