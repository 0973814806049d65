# align in a container, for a CPU or an NVIDIA card:
#
#   docker build -t align .                               # a CPU
#   docker build -t align --build-arg DEVICE=cuda .       # the same base: torch's wheels bring CUDA, the host its driver
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" align run sft dpo
#   docker run --rm --gpus all -v "$PWD:/work" --user "$(id -u):$(id -g)" align run sft --recipe mine.yaml
#
# Several cards: add --ipc=host, through which their processes exchange gradients.
# /work is the folder in front of you: recipes and data are read there, runs/ is written there.
# Models of the hub are kept in /cache/huggingface; mount a folder there to keep them between runs.
FROM python:3.11.14-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.11.14-slim-bookworm
ARG DEVICE=cpu
# Extras to install with it, such as serve,gguf
ARG EXTRAS=serve
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 \
    HF_HOME=/cache/huggingface HOME=/home/align
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Triton compiles what it runs on a card, and has no compiler of its own.
# hadolint ignore=DL3008
RUN case "$DEVICE" in cpu) exit 0 ;; cuda) ;; *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 2 ;; esac \
    && apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /tmp/constraints.txt
# Alone: that index has not every pinned version of what torch needs, and the next step brings it.
RUN if [ "$DEVICE" = cpu ]; then \
        pip install --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0; \
    else pip install -c /tmp/constraints.txt torch==2.13.0; fi
COPY --from=wheel /wheel /tmp/wheel
RUN file="$(echo /tmp/wheel/*.whl)" && pip install -c /tmp/constraints.txt "${file}${EXTRAS:+[$EXTRAS]}"
# Any user may run it, so that what is written in /work belongs to who started it.
RUN useradd --uid 1000 --create-home align && mkdir -p /work /cache/huggingface \
    && chown align /work && chmod 777 /home/align /cache /cache/huggingface
USER 1000
WORKDIR /work
ENTRYPOINT ["align"]
CMD ["--help"]
