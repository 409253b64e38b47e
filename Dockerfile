# A static binary and the CA roots, nothing else. `.ci/image` runs the same steps without an engine.
FROM rust:1.95-bookworm AS build
# What the second build below reads the first one's profile with.
RUN apt-get update && apt-get install -y --no-install-recommends llvm-19 python3
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY config config
COPY src src
COPY benches benches
COPY tests tests
# Built twice: the first build counts what it does while it serves, the second is laid out by that.
RUN mkdir -p /root-of-image/etc/ssl/certs \
 && program="$(benches/peers/tuned.py)" \
 && cp "$program" /root-of-image/sidestep \
 && cp /etc/ssl/certs/ca-certificates.crt /root-of-image/etc/ssl/certs/ca-certificates.crt

FROM scratch
COPY --from=build /root-of-image/ /
USER 65532:65532
# Beyond loopback Sidestep asks who may call: set SIDESTEP_CALLER_KEYS, or SIDESTEP_ANONYMOUS=true.
ENV SIDESTEP_LISTEN=0.0.0.0:8080
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/sidestep", "health"]
ENTRYPOINT ["/sidestep"]
