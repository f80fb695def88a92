# draftsmith for CPUs.
#
#   docker build -t draftsmith .
#   docker run --rm -v "$PWD:/work" draftsmith run mine.toml
#
# The image holds the program, its manual pages and completions. Models, texts and runs stay in the folder that is mounted.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked \
    && target/release/draftsmith man --output man \
    && target/release/draftsmith completions bash > draftsmith.bash

FROM debian:bookworm-slim
COPY --from=build /src/target/release/draftsmith /usr/local/bin/
COPY --from=build /src/man/ /usr/local/share/man/man1/
COPY --from=build /src/draftsmith.bash /usr/share/bash-completion/completions/draftsmith
WORKDIR /work
ENTRYPOINT ["draftsmith"]
