# FlowCut Lens on the CPU, the embedded model inside: docker build -t flowcut-lens . && docker run -p 8501:8501 flowcut-lens
FROM python:3.11-slim

RUN useradd --create-home lens
WORKDIR /srv/flowcut-lens

# The CPU build of torch first and on its own: the default build brings gigabytes of CUDA libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir torch==2.13.0 --extra-index-url ${TORCH_INDEX}

# requirements.txt serves as constraints, so that the image has the tested versions without the development tools.
COPY pyproject.toml setup.py requirements.txt README.md LICENSE ./
COPY flowcut flowcut
COPY analysis analysis
COPY scenes scenes
COPY app app
COPY assets assets
RUN pip install --no-cache-dir --constraint requirements.txt --editable ".[app]"

USER lens
# Threads that wait sleep: a container shares its machine. How many there are follows from the container's CPU quota.
ENV OMP_WAIT_POLICY=PASSIVE
ENV HF_HOME=/home/lens/.cache/huggingface
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"
CMD ["flowcut", "app", "--host", "0.0.0.0", "--port", "8501"]
