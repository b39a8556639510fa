# CPU image of the service. No root, read-only root file system; everything that changes lies in /data.
#
#   docker build -t lhier .
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL -p 127.0.0.1:8000:8000 -v lhier-data:/data \
#       -e LHIER_AUTH__READ_KEY -e LHIER_AUTH__WRITE_KEY lhier
#
# Size: PyPI's torch for Linux is linked against CUDA's libraries and does not load without them, 3 GB that a CPU never
# uses. PyTorch also publishes CPU wheels of the same versions (pytorch.org, "Get started", "CPU", names the index):
#   docker build --build-arg PIP_EXTRA_INDEX_URL=<that index> -t lhier .
# pip then takes torch 2.x.y+cpu, which the pin torch==2.x.y allows. Both sizes: docs/runbook.md.
FROM python:3.11-slim-bookworm AS dependencies
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
# The packages first, without our code: a layer of gigabytes that changes with pyproject.toml and constraints.txt only.
COPY pyproject.toml constraints.txt README.md LICENSE ./
# triton compiles kernels for GPUs (0.9 GB); torch does without it.
RUN python -m venv /opt/lhier \
    && /opt/lhier/bin/python -m pip install --no-cache-dir --constraint constraints.txt ".[cpu,export,offline]" \
    && /opt/lhier/bin/python -m pip uninstall --yes lhier triton

FROM dependencies AS wheel
COPY hyperbolic hyperbolic
COPY training training
COPY index index
COPY service service
COPY lhier lhier
RUN /opt/lhier/bin/python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
# No package of Debian is added: the wheels bring their own libgomp.
RUN groupadd --system --gid 10001 lhier \
    && useradd --system --uid 10001 --gid 10001 --home-dir /data --shell /usr/sbin/nologin lhier \
    && install --directory --owner=lhier --group=lhier --mode=0750 /data
COPY --from=dependencies /opt/lhier /opt/lhier
COPY --from=wheel /wheels /tmp/wheels
RUN /opt/lhier/bin/python -m pip install --no-cache-dir --no-deps --no-index /tmp/wheels/*.whl && rm -r /tmp/wheels
ENV PATH=/opt/lhier/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/data/cache \
    LHIER_CHECKPOINT=/data/checkpoint \
    LHIER_STORE=/data/store \
    LHIER_HOST=0.0.0.0 \
    LHIER_PORT=8000 \
    LHIER_OPERATION__LOG_FORMAT=json
# By number: Kubernetes' runAsNonRoot cannot look up a name.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# On its first start with a model the service makes the graph for OpenVINO, about a minute, and keeps it in /data/cache.
HEALTHCHECK --start-period=180s --interval=15s --timeout=5s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"LHIER_PORT\"]}/livez', timeout=4)"]
# exec form: SIGTERM reaches the server, which drains for at most 25 s; `docker stop --time 40` leaves it that long.
ENTRYPOINT ["lhier"]
CMD ["serve"]
# Last, for they change with every build.
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="lhier" \
      org.opencontainers.image.description="Fine-grained visual search with a hierarchy, in hyperbolic space" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="python:3.11-slim-bookworm"
