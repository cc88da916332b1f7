# The image of cluster.yaml and of jobs/rayjob.yaml: `make image`, then push it to your registry under the name that both
# files have. Machines of a cluster install nothing when they start.
#
# There is no CUDA base. torch's wheels bring CUDA 13 themselves and need only the host's driver: version 580 or newer.
# requirements.lock names everything that a run imports, with hashes: the versions that the tests ran with (`make lock`).
# Only what builds the wheel and uv, which installs it, are pinned without a hash.
FROM python:3.11.15-slim-bookworm AS wheel
WORKDIR /src
RUN pip install --no-cache-dir hatchling==1.33.0 hatch-fancy-pypi-readme==25.1.0
COPY pyproject.toml README.md LICENSE ./
COPY camrobust camrobust
COPY jobs jobs
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .

FROM python:3.11.15-slim-bookworm
# Ray reaches other machines with ssh and rsync, KubeRay asks with wget, torch.compile calls a compiler.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ openssh-client procps rsync wget && rm -rf /var/lib/apt/lists/*
# The user ids of the host's first user and of Ray's own images. Ray writes into .ray, where the token is mounted, too.
RUN useradd --create-home --shell /bin/bash --uid 1000 ray && install -d -o ray -g ray /home/ray/.ray /weights
WORKDIR /home/ray/camrobust
COPY requirements.lock ./
COPY jobs jobs
COPY --from=wheel /wheel /wheel
RUN jobs/install.sh /usr/local/bin/python /wheel/*.whl && python -m uv pip check --system && camrobust --help >/dev/null

# Downloaded weights are kept here: mount a volume that outlives the container, filled beforehand (docs/running.md).
ENV HOME=/home/ray TORCH_HOME=/weights/torch HF_HOME=/weights/huggingface
VOLUME /weights
# What an image needs to see a GPU if it does not come from NVIDIA.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER ray
