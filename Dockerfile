# Targets: core (the default), cpu (with clara-nano and torch for the CPU) and cuda (torch with CUDA):
#   docker build --target cuda -t clara-proxy:cuda .
# The build stages may compile wheels; the others hold only the installed environment.
# The proxy listens on all addresses of the container, so it refuses to start until an API key exists (`docker run ...
# keys create NAME`, with the same volume), or CLARA_REQUIRE_KEYS=false and CLARA_OPEN=true allow requests without one:
# docs/keys.md.
# To pin the base image: docker build --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:... .  (docs/security.md)
ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE} AS build
# Comma-separated extras, such as postgres,redis,encrypted
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE py.typed __init__.py ./
COPY config ./config
COPY compression ./compression
COPY proxy ./proxy
RUN python -m venv /opt/clara-proxy \
    && /opt/clara-proxy/bin/pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}"

FROM build AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# torch alone from its own index, which lacks the pinned versions of what torch needs
RUN /opt/clara-proxy/bin/pip install --no-cache-dir --no-deps --constraint constraints.txt --index-url ${TORCH_INDEX} torch \
    && /opt/clara-proxy/bin/pip install --no-cache-dir --constraint constraints.txt ".[clara]"

FROM build AS build-cuda
RUN /opt/clara-proxy/bin/pip install --no-cache-dir --constraint constraints.txt ".[clara]"

FROM ${PYTHON_IMAGE} AS runtime
RUN useradd --create-home --uid 10001 clara \
    && mkdir /data /models \
    && chown clara:clara /data /models
ENV PATH=/opt/clara-proxy/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/models \
    CLARA_HOST=0.0.0.0 \
    CLARA_PORT=8765 \
    CLARA_DATA_DIR=/data \
    CLARA_REQUIRE_KEYS=true
USER 10001
VOLUME /data
EXPOSE 8765
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"CLARA_PORT\"]}/livez', timeout=2)"]
ENTRYPOINT ["clara-proxy"]
CMD ["serve"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/clara-proxy /opt/clara-proxy

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/clara-proxy /opt/clara-proxy

FROM runtime AS core
COPY --from=build /opt/clara-proxy /opt/clara-proxy
