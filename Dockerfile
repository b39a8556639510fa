# CPU image of the service: docker build -t lhier . && docker run -p 8000:8000 -v ./data:/data -e LHIER_AUTH__READ_KEY=... lhier
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY hyperbolic hyperbolic
COPY training training
COPY index index
COPY service service
COPY lhier lhier
RUN python -m venv /opt/lhier \
    && /opt/lhier/bin/pip install --no-cache-dir --constraint constraints.txt ".[cpu,offline]"

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="lhier" \
      org.opencontainers.image.description="Fine-grained visual search with a hierarchy, in hyperbolic space" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data lhier \
    && install -d -o lhier /data
COPY --from=build /opt/lhier /opt/lhier
ENV PATH=/opt/lhier/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    LHIER_CHECKPOINT=/data/checkpoint \
    LHIER_STORE=/data/store \
    LHIER_HOST=0.0.0.0 \
    LHIER_PORT=8000
USER lhier
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=15s --timeout=5s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"LHIER_PORT\"]}/livez', timeout=4)"]
# exec form: SIGTERM reaches the server, which finishes the requests under way.
ENTRYPOINT ["lhier"]
CMD ["serve"]
