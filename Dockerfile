# docker build -t tool-factory .
# docker run --rm --read-only --tmpfs /tmp --network none -v factory-data:/data tool-factory round --n 64
# Everything that a command writes is in /data, the one volume; the root may be read-only.
FROM python:3.11-slim-bookworm AS build
ARG TORCH="torch==2.13.0+cpu"
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/cpu.lock /build/cpu.lock
RUN python -m venv /opt/factory \
 && /opt/factory/bin/pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" "$TORCH" \
 && /opt/factory/bin/pip install --no-cache-dir --no-deps -r /build/cpu.lock
COPY . /build/tool-factory
RUN /opt/factory/bin/pip install --no-cache-dir --no-deps --no-build-isolation /build/tool-factory \
 && /opt/factory/bin/python -m compileall -q /opt/factory/lib || true

FROM python:3.11-slim-bookworm
# vLLM's library without a GPU is linked with libnuma; OpenMP is torch's own.
RUN apt-get update && apt-get install -y --no-install-recommends libnuma1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home factory && install -d -o factory /data
COPY --from=build /opt/factory /opt/factory
ENV PATH=/opt/factory/bin:$PATH HOME=/data TMPDIR=/tmp PYTHONDONTWRITEBYTECODE=1
USER factory
VOLUME /data
WORKDIR /data
# The first command makes the workspace.
ENTRYPOINT ["/bin/sh", "-c", "[ -e factory.toml ] || factory init . >&2; exec factory \"$@\"", "factory"]
CMD ["doctor"]
