# nmsat on Debian 12 with what the README asks for. The steps are those of `make fresh`, which tries them in a new Debian.
#   docker build -t nmsat .
#   docker run --rm -it nmsat .venv/bin/nmsat paper
FROM debian:bookworm-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make perl python3-venv libpython3-dev git ca-certificates \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home nmsat
USER nmsat
WORKDIR /home/nmsat/nmsat
COPY --chown=nmsat . .
RUN make setup

CMD ["bash"]
