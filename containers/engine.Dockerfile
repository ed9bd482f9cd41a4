# Trains and samples: Megatron, vLLM and Mooncake share one closure of dependencies, and an RL stage has both in
# one container, so there is one image. VARIANT is cpu or cuda; WHEELS the address of a folder of wheels.
ARG BASE=k15-base:bookworm
FROM ${BASE}
ARG VARIANT=cpu
ARG WHEELS
ENV PATH=/opt/k15/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1
RUN python3 -m venv /opt/k15 && useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin k15
# The slowest to change first: torch, then what stands on it, then the project.
COPY containers/locks/torch-${VARIANT}.txt /locks/torch.txt
RUN pip install --no-cache-dir --no-deps --no-index --find-links "${WHEELS}" --require-hashes -r /locks/torch.txt
ARG LOCK=engine.txt
COPY containers/locks/${LOCK} /locks/engine.txt
RUN pip install --no-cache-dir --no-deps --no-index --find-links "${WHEELS}" --require-hashes -r /locks/engine.txt
WORKDIR /app
COPY containers/sbom.py pyproject.toml /app/
COPY k15 /app/k15
COPY stages /app/stages
ENV PYTHONPATH=/app
RUN python sbom.py /app/sbom.json && python -m compileall -q k15 stages
ARG COMMIT
ARG LOCK_DIGEST
ARG SOURCE
LABEL org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.title="k15 engine (${VARIANT})" \
      k15.lock="${LOCK_DIGEST}" \
      k15.source="${SOURCE}"
USER 10001:10001
CMD ["python", "-m", "stages.rl", "--help"]
