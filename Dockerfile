# A static binary and the CA roots, nothing else. `.ci/image` runs the same steps without an engine.
FROM rust:1.95-bookworm AS build
ARG TARGETARCH=amd64
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY config config
COPY src src
COPY benches benches
COPY tests tests
RUN case "$TARGETARCH" in amd64) arch=x86_64 ;; arm64) arch=aarch64 ;; *) echo "no build for $TARGETARCH"; exit 1 ;; esac \
 && RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --profile dist --target "$arch-unknown-linux-gnu" --locked \
 && mkdir -p /root-of-image/etc/ssl/certs \
 && cp "target/$arch-unknown-linux-gnu/dist/sidestep" /root-of-image/sidestep \
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
