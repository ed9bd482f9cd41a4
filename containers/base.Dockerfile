# What the images stand on, from a public Debian 12 pinned by digest: BASE=debian@sha256:… make images
# Without BASE, infra/images.py makes the same with debootstrap.
ARG BASE
FROM ${BASE}
ARG PACKAGES
RUN apt-get update \
    && apt-get install -y --no-install-recommends ${PACKAGES} \
    && rm -rf /var/lib/apt/lists/*
