#!/usr/bin/env bash
# Serve one of the tiny models of install.sh with a real vLLM on 127.0.0.1, in the foreground.
# Usage: serve.sh DIR PORT MODEL [vLLM's own arguments]. It ends by itself after LIFE seconds (900).
# ROUTED=1: routed experts are returned. That takes Model Runner V2, whose Triton kernels run in Triton's interpreter;
# the interpreter cannot run those of top_k, top_p and min_p, so a request that has them ends the engine.
set -euo pipefail
dir=${1:?usage: serve.sh DIR PORT MODEL [arguments]} port=$2 model=$3
shift 3
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 TOKENIZERS_PARALLELISM=false
export VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1  # the administration routes
export TORCHDYNAMO_DISABLE=1  # else the first requests wait for a C++ compiler
# The engine computes in its own process: one fewer imports vLLM, and none spins for messages on the tests' cores.
export VLLM_ENABLE_V1_MULTIPROCESSING=0
export OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_CPU_KVCACHE_SPACE=1
if [ "${ROUTED:-0}" = 1 ]; then
    PYTHONPATH=$(cd "$(dirname "$0")" && pwd)/triton_cpu${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH TRITON_INTERPRET=1 TRITON_DEFAULT_BACKEND=cpu VLLM_USE_V2_MODEL_RUNNER=1
    # The model's generation_config has top_k and top_p.
    set -- --enable-return-routed-experts --generation-config vllm "$@"
else
    # With a Triton that has the backend, Model Runner V1 compiles its kernels.
    export VLLM_USE_V2_MODEL_RUNNER=0 TRITON_BACKENDS_IN_TREE=1
fi
exec timeout --kill-after=10 "${LIFE:-900}" "$dir/venv/bin/python" -m vllm.entrypoints.openai.api_server \
    --model "$dir/models/$model" --served-model-name toy --host 127.0.0.1 --port "$port" \
    --dtype float32 --enforce-eager --max-model-len 512 --max-num-seqs 64 \
    --distributed-executor-backend uni --enable-scale-out --enable-request-id-headers "$@"
