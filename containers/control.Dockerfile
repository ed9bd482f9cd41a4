# The flow, its workers and the command `k15`: Prefect, MLflow, the Docker client. It needs no GPU: one variant.
ARG BASE=k15-base:bookworm
FROM ${BASE}
ARG WHEELS
ENV PATH=/opt/k15/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=1
RUN python3 -m venv /opt/k15 && useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin k15
COPY containers/locks/control.txt /locks/control.txt
RUN pip install --no-cache-dir --no-deps --no-index --find-links "${WHEELS}" --require-hashes -r /locks/control.txt
WORKDIR /app
COPY containers/sbom.py pyproject.toml /app/
COPY k15 /app/k15
COPY flows /app/flows
COPY stages /app/stages
COPY recipes /app/recipes
ENV PYTHONPATH=/app
RUN python sbom.py /app/sbom.json && python -m compileall -q k15 flows stages
ARG COMMIT
ARG LOCK_DIGEST
ARG SOURCE
LABEL org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.title="k15 control" \
      k15.lock="${LOCK_DIGEST}" \
      k15.source="${SOURCE}"
USER 10001:10001
CMD ["python", "-m", "k15.cli.main", "--help"]
