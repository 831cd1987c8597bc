# syntax=docker/dockerfile:1
# Holdfast in two stages: wheels checked against requirements.lock, then the smallest image that runs them.
#
#   docker build -t holdfast .
#   docker run --init -p 8000:8000 -v holdfast:/var/lib/holdfast holdfast      one container, embedded servers
#   docker compose up                                                          Valkey, Postgres and the API apart

FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements.lock ./
# Everything locked, each file by its hash; below, nothing else can be installed. The lock also holds the tools of
# development: they stay behind in this stage, because the install takes what pyproject.toml needs to run and no more.
RUN pip download --no-cache-dir --require-hashes --only-binary :all: --dest /wheels -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY lua lua
COPY engine engine
COPY persistence persistence
COPY api api
COPY holdfast holdfast
RUN python -m venv /opt/holdfast \
 && /opt/holdfast/bin/pip install --no-cache-dir --no-index --find-links /wheels . \
 && /opt/holdfast/bin/pip uninstall --yes pip

FROM python:3.12-slim
LABEL org.opencontainers.image.title="Holdfast" \
      org.opencontainers.image.description="A Redis-first seat reservation engine" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/holdfast holdfast
COPY --from=build /opt/holdfast /opt/holdfast
ENV PATH=/opt/holdfast/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOLDFAST_DATA_DIR=/var/lib/holdfast
USER holdfast
WORKDIR /var/lib/holdfast
VOLUME /var/lib/holdfast
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["holdfast"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
