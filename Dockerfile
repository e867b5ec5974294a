FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONPATH=/app/src \
    PORT=8080 \
    DB_PATH=/data/store.db \
    CONSUMER_WORKERS=2

WORKDIR /app

# The packages first, on their own: this layer is built again only when the lock changes.
COPY requirements-serve.lock ./
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes -r requirements-serve.lock

# A fresh named volume takes its owner from the folder it covers, so /data has to belong to the user from the start.
RUN groupadd --system --gid 10001 sekali \
    && useradd --system --no-log-init --uid 10001 --gid sekali --home-dir /app --shell /usr/sbin/nologin sekali \
    && install -d -o sekali -g sekali -m 0750 /data

COPY LICENSE README.md ./
COPY src ./src

USER 10001:10001
EXPOSE 8080
VOLUME ["/data"]

HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/healthz', timeout=4).close()"]

# The shell only fills in PORT and is gone then: SIGTERM reaches the server itself, which drains and ends within 10 s.
CMD ["sh", "-c", "exec python -m sekali serve --host 0.0.0.0 --port \"$PORT\""]
