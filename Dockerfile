# Observe-R1 in a container: two targets, `cpu` and `cuda`. docs/install.md shows how to build and run them.
#
# The environment is made in a stage of its own with the versions of constraints.txt; the image gets it whole, without uv's cache.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS environment
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
ENV UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 VIRTUAL_ENV=/opt/observe-r1
RUN pip install --no-cache-dir -c constraints.txt uv && uv venv --python /usr/local/bin/python3 /opt/observe-r1
COPY observe_r1 observe_r1

FROM environment AS environment-cpu
RUN uv pip install --torch-backend cpu -c constraints.txt '.[cluster]'

FROM environment AS environment-cuda
RUN uv pip install -c constraints.txt '.[vllm,cluster,quantize,wandb]'

FROM python:${PYTHON}-slim-bookworm AS base
# On a GPU Triton builds a little C once; Python's headers come with the image.
RUN apt-get update \
  && apt-get install --yes --no-install-recommends gcc libc6-dev \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --uid 1000 --create-home --home-dir /home/observer observer \
  && chmod 1777 /home/observer
# `docker run --user` may name anybody: they have this home, and a name, too.
ENV HOME=/home/observer USER=observer
ENV PATH=/opt/observe-r1/bin:$PATH HF_HOME=/home/observer/.cache/huggingface PYTHONUNBUFFERED=1
WORKDIR /home/observer
USER 1000
ENTRYPOINT ["observe-r1"]
CMD ["--help"]

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=environment-cuda /opt/observe-r1 /opt/observe-r1

# The last stage is what `docker build .` makes where no target is named.
FROM base AS cpu
COPY --from=environment-cpu /opt/observe-r1 /opt/observe-r1
