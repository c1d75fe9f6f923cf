# The serving image: Python, ONNX Runtime, FAISS and the service; no torch, no model, no key.
# Build: docker build -t facemargin .          Run: docker compose up (see docs/deployment.md)

FROM python:3.13-slim AS build
# Extras of the package. PostgreSQL's client is small and always in; Milvus' brings gRPC and pandas: ask for it by
# --build-arg EXTRAS=serve,postgres,milvus
ARG EXTRAS=serve,postgres
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/facemargin
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY facemargin facemargin
COPY service service
COPY training training
# A dependency that brings torch would make the image four times as large: fail here and not in production.
RUN /opt/facemargin/bin/pip install --constraint constraints.txt ".[${EXTRAS}]" \
    && /opt/facemargin/bin/python -c "import importlib.util as u, service.app; assert u.find_spec('torch') is None"

FROM python:3.13-slim
LABEL org.opencontainers.image.title="facemargin" \
      org.opencontainers.image.description="Face embedding, verification, enrolment and search over REST" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 facemargin \
    && useradd --system --uid 10001 --gid facemargin --no-create-home --shell /usr/sbin/nologin facemargin \
    && install --directory --owner=facemargin --group=facemargin --mode=0700 /data
COPY --from=build /opt/facemargin /opt/facemargin
COPY --chmod=0755 deploy/entrypoint.sh /usr/local/bin/facemargin-entrypoint
ENV PATH=/opt/facemargin/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FACEMARGIN_BUNDLE=/bundle \
    FACEMARGIN_STORE=/data
# By number: Kubernetes cannot see that a name is not root's.
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["facemargin-entrypoint"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
