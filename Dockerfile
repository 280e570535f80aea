# Images for training on CPUs, NVIDIA GPUs and TPUs:
#
#   docker build --target=cpu --tag=perceiver_jax .      # or cuda, or tpu
#   docker run perceiver_jax experiments.train --config=configs/digits.py:smoke \
#     --workdir=/tmp/digits
#
# The commands are those of README.md.

FROM python:3.12-slim-bookworm AS cpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008  # The versions of Debian's release.
RUN apt-get update \
  && apt-get install --yes --no-install-recommends make \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /perceiver_jax
COPY . .
RUN make setup
ENTRYPOINT ["/perceiver_jax/.venv/bin/python", "-m"]

FROM cpu AS cuda
RUN .venv/bin/python -m pip install --no-cache-dir -e '.[cuda,gcs]'

FROM cpu AS tpu
RUN .venv/bin/python -m pip install --no-cache-dir -e '.[tpu,gcs]'
