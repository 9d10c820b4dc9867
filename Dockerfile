# A worker, and every part of a Prefect server for many of them (deployments/compose/): the same environment serves
# both. Nothing is built in the image that runs, nothing there belongs to the user that it runs as, and every package
# comes with its hash.
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
ENTRYPOINT ["hyperexport"]
CMD ["serve"]
