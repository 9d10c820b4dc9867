# One image for workers, for each run in a container or cluster, and for every part of a Prefect server for many of them
# (deployments/compose/). Build it at the root of a clone, with the name that the deployments use:
#   docker build --tag hyperexport:0.1.0 .
# Nothing is built in the image that runs, nothing there belongs to the user that it runs as, and every package comes
# with its hash.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /source
RUN python -m venv /opt/hyperexport
COPY requirements/worker.txt requirements/
RUN /opt/hyperexport/bin/pip install --no-cache-dir --require-hashes -r requirements/worker.txt
COPY pyproject.toml README.md ./
COPY blocks/ blocks/
COPY cli/ cli/
COPY deployments/ deployments/
COPY flows/ flows/
COPY hyperexport/ hyperexport/
COPY simulator/ simulator/
COPY tasks/ tasks/
RUN /opt/hyperexport/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/hyperexport/bin/pip check

FROM python:${PYTHON}
RUN useradd --create-home --uid 10001 hyperexport \
    && install --directory --owner=hyperexport --group=hyperexport /exports
COPY --from=build /opt/hyperexport /opt/hyperexport
ENV PATH=/opt/hyperexport/bin:$PATH \
    PREFECT_HOME=/home/hyperexport/.prefect \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1 \
    PYTHONUNBUFFERED=1
USER 10001
# Relative outputs go here; mount the store of all workers here, or upload to S3.
WORKDIR /exports
VOLUME /exports
# No ENTRYPOINT: prefect-docker sets only the command of a container, prefect-kubernetes only its args, and both are a
# whole command, "prefect flow-run execute".
CMD ["hyperexport", "serve"]
