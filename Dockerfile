# One image with the three programs: operator, seckill-api, order-worker.
#
#   docker build -t seckill .                                     builds the programs in a container
#   docker build -t seckill --build-arg BINARIES=prebuilt .       takes them from target/image/, linked against Debian 12

# The stage that the programs come from: build or prebuilt.
ARG BINARIES=build
# What they stand on. They need glibc, libgcc and libssl3 of Debian 12, and the certificates of public authorities.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# The base image has no zlib: link it into the programs.
ENV LIBZ_SYS_STATIC=1
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --bin operator --bin seckill-api --bin order-worker \
    && mkdir /image \
    && cp target/release/operator target/release/seckill-api target/release/order-worker /image/

FROM scratch AS prebuilt
COPY target/image/ /image/

# COPY --from takes no variable; FROM does.
FROM ${BINARIES} AS binaries

FROM ${BASE}
COPY --from=binaries /image/ /usr/local/bin/
USER 65532:65532
LABEL org.opencontainers.image.title="seckill" \
      org.opencontainers.image.source="https://github.com/seckill/seckill" \
      org.opencontainers.image.licenses="Apache-2.0"
