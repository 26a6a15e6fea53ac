# Posthaste as one image: the binary, the certificates that it trusts, and a user of its own.

FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make perl \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# For Kafka with TLS or SCRAM: docker compose build --build-arg FEATURES=kafka-tls
ARG FEATURES=
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package posthaste --features "$FEATURES" \
    && strip -o /usr/local/bin/posthaste target/release/posthaste
# Made here, since the last stage runs nothing.
RUN install --directory --owner=10001 --group=10001 /data

# The same Debian as above, for its C library.
FROM debian:12.15-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/bin/posthaste /usr/local/bin/posthaste
# A volume that is mounted here for the first time belongs to the same user.
COPY --from=build --chown=10001:10001 /data /data
USER 10001:10001
WORKDIR /
# A container has an address of its own: listen on it, not on the container's own loopback. Then POSTHASTE_SERVICE__AUTH__ENABLED
# and keys are needed, or `--insecure-no-auth` where only this machine can reach the container.
ENV POSTHASTE_SERVICE__LISTEN=0.0.0.0:3000 \
    POSTHASTE_SERVICE__DATA_DIR=/data
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 CMD ["posthaste", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["posthaste"]
CMD ["up"]
