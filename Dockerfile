# The whole of Dagster in one image: web server, daemon, code server and runs differ by their command alone.
# Every package is pinned by its hash in requirements.lock; ffmpeg comes with the package imageio-ffmpeg.
FROM debian:trixie-slim AS base
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 ac-pipeline \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/ac-pipeline ac-pipeline \
 && install --directory --mode=0700 --owner=10001 --group=10001 /var/lib/ac-pipeline

FROM base AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && python3 -m venv /opt/ac-pipeline
COPY requirements.lock /src/
RUN /opt/ac-pipeline/bin/pip install --no-cache-dir --require-hashes --requirement /src/requirements.lock
COPY pyproject.toml README.md LICENSE dagster.yaml workspace.yaml /src/
COPY lexicons /src/lexicons
COPY ac_pipeline /src/ac_pipeline
RUN /opt/ac-pipeline/bin/pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM base
COPY --from=build /opt/ac-pipeline /opt/ac-pipeline
ENV PATH=/opt/ac-pipeline/bin:/usr/local/bin:/usr/bin:/bin \
    DAGSTER_HOME=/var/lib/ac-pipeline \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/ac-pipeline
EXPOSE 3000
# An init: Dagster collects no children of its runs.
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["ac-pipeline", "dagster", "webserver", "--host", "0.0.0.0"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/server_info', timeout=5)"]
