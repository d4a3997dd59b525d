# What is run by hand; `just --list` shows it.

python := ".venv/bin/python"

# Format, lints and documentation, all warnings errors
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# The tests; they need neither Python nor a network
test:
    cargo test

# Every measurement that the documentation shows, as Markdown: speed and memory beside the PyTorch reference, and more
bench *arguments: reference-env
    cargo build --release
    cargo bench --bench growth --no-run
    {{python}} benches/all.py {{arguments}}

# Each operation's time at a model's sizes
ops *arguments:
    cargo bench --bench ops -- {{arguments}}

# Compute the tiny model's golden tensors again, and check the reference against the bundled model's
goldens: reference-env
    {{python}} benches/reference/goldens.py
    {{python}} benches/reference/check.py

# Train a model, as models/recipe/README.md describes
train *arguments: reference-env
    {{python}} models/recipe/train.py {{arguments}}

# .venv with the reference's pinned requirements
reference-env:
    test -x {{python}} || python3 -m venv .venv
    {{python}} -m pip install --quiet --requirement models/recipe/requirements.txt
