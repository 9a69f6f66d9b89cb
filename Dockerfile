# docker build -t pointsman .
# docker run --rm -p 8080:8080 -p 9900:9900 pointsman
# docker run --rm -p 8080:8080 pointsman serve --listen 0.0.0.0:8080 --upstream http://app:3000
#
# The master is process 1: it reaps whatever is orphaned in here, stops on SIGTERM, and drains for up to 30 s (--drain-timeout). Docker
# kills after 10 s: give it more with `docker run --stop-timeout 35`.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /pointsman
COPY . .
RUN cargo build --release --locked --bin pointsman

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin pointsman
COPY --from=build /pointsman/target/release/pointsman /usr/local/bin/pointsman
# Whom --bus tls://… trusts if nobody says otherwise (--bus-ca).
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/pointsman/
USER 10001:10001
EXPOSE 8080 9900

# Is a worker ready? There is no curl here, but bash can speak TCP. It asks the admin interface on
# its usual port: with another one, or none, say so (docker run --health-cmd, or --no-healthcheck).
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9900 && printf 'GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r -t 2 _ code _ <&3 && [ \"$code\" = 200 ]"]

STOPSIGNAL SIGTERM
ENTRYPOINT ["pointsman"]
# Within a container 127.0.0.1 is nobody else's: listen on all addresses.
CMD ["serve", "--demo", "--listen", "0.0.0.0:8080", "--admin", "0.0.0.0:9900"]
