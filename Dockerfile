# CPU: docker build -t scfm .    GPU: docker build --build-arg TORCH=https://download.pytorch.org/whl/cu130 -t scfm:gpu .
# docker run --rm -v "$PWD:/work" scfm scfm-prepare input=cells.h5ad output=stores/cells
FROM python:3.12-slim
ARG TORCH=https://download.pytorch.org/whl/cpu
WORKDIR /opt/scfm
RUN pip install --no-cache-dir torch --index-url "$TORCH"
COPY pyproject.toml README.md LICENSE ./
COPY scfm scfm
COPY configs configs
RUN pip install --no-cache-dir ".[evaluate,lora,hub]" && useradd --create-home scfm
USER scfm
WORKDIR /work
CMD ["scfm-doctor"]
