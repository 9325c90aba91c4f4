# FlowCut Lens in a container, the embedded model inside; videos too:
#   docker build -t flowcut-lens . && docker run -p 8501:8501 flowcut-lens
#
# Models from the hub lie in a volume (HF_HOME), which a name keeps for the next container:
#   docker run -p 8501:8501 -v flowcut-models:/home/lens/.cache/huggingface flowcut-lens
# A folder of the host's in its place must be writable for the container's user `lens`, whose number is 1000.
#
# Threads: flowcut starts no more of them than the container's CPU quota allows, and threads that wait sleep
# (OMP_WAIT_POLICY). `docker run --cpus 2 ...` sets the quota, `-e OMP_NUM_THREADS=4` another number of threads.
#
# GPU: build with the CUDA build of torch, several gigabytes, and hand the GPU to the container (the host needs NVIDIA's
# container toolkit); flowcut uses a GPU wherever torch sees one:
#   docker build -t flowcut-lens:gpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#   docker run --gpus all -p 8501:8501 flowcut-lens:gpu
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 lens
WORKDIR /srv/flowcut-lens

# torch first and from the index of its build: the default build brings gigabytes of CUDA libraries. torchvision with it,
# since its compiled operators load only beside the torch that they were built for.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir torch==2.13.0 torchvision==0.28.0 --extra-index-url ${TORCH_INDEX}

# requirements.txt serves as constraints, so that the image has the tested versions without the development tools.
COPY pyproject.toml setup.py requirements.txt README.md LICENSE ./
COPY flowcut flowcut
COPY analysis analysis
COPY scenes scenes
COPY cli cli
COPY app app
COPY assets assets
RUN pip install --no-cache-dir --constraint requirements.txt --editable ".[app,video]"

USER lens
ENV OMP_WAIT_POLICY=PASSIVE
ENV HF_HOME=/home/lens/.cache/huggingface
# Made by `lens` before it becomes a volume: a new volume takes the owner of the folder that it covers.
RUN mkdir -p ${HF_HOME}
VOLUME ${HF_HOME}
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"
CMD ["flowcut", "app", "--host", "0.0.0.0", "--port", "8501"]
