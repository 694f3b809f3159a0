# syntax=docker/dockerfile:1
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/sparkops ./cmd/sparkops

# The image runs the production roles against EventStoreDB and Postgres given
# by EVENTSTORE_URL and DATABASE_URL. It holds no Postgres binaries: `dev` is
# for machines, not for this image.
FROM gcr.io/distroless/static-debian12:nonroot
LABEL org.opencontainers.image.title="SparkOps control plane" \
      org.opencontainers.image.source="https://github.com/sparkops/control-plane" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/sparkops /sparkops
USER 65532:65532
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=6 CMD ["/sparkops", "doctor", "--health"]
ENTRYPOINT ["/sparkops"]
CMD ["serve"]
