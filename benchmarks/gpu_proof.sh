#!/usr/bin/env bash
# What one GPU of 140 GB shows in under 9 minutes, without internet; it has not run on a GPU yet.
#   bash benchmarks/gpu_proof.sh [FOLDER]               figures as JSON, logs, and parts.jsonl: how each part ended
#   REFERENCE=checkout bash benchmarks/gpu_proof.sh     the public reference's step beside ours (see README.md)
#   MINIATURE=1 bash benchmarks/gpu_proof.sh            the same parts on a CPU with tiny networks, a few minutes
# Each part has its own limit in seconds and writes as it goes: one that fails or is cut off leaves the others alone.
set -u
out=$(realpath -m "${1:-gpu_proof}")
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
mkdir -p "$out"
: >"$out/parts.jsonl"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
failed=0

part() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2 began=$SECONDS status=0
    shift 2
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    [ $status -eq 0 ] || failed=1
    echo "{\"part\": \"$name\", \"exit\": $status, \"seconds\": $((SECONDS - began)), \"limit\": $limit}" |
        tee -a "$out/parts.jsonl"
}

cd "$here/.." || exit 1
if [ -n "${MINIATURE:-}" ]; then
    part step 300 "$python" benchmarks/gpu_step.py --miniature --clips 2 --repeats 1 --json "$out/step.json"
    part codecs 300 "$python" benchmarks/codec_speed.py --codecs bundled/plain --seconds 1 --batch 1 --rounds 1 \
        --parts speed --json "$out/codecs.json"
    part lm 300 "$python" benchmarks/lm_speed.py --steps 1 --rounds 1 --batch-tokens 2048 --clips 2 --codes 4 \
        --json "$out/lm.json"
    exit $failed
fi
part device 15 "$python" -c "import torch; assert torch.cuda.is_available(), 'no GPU'; print(torch.cuda.get_device_name())"
[ $failed -eq 0 ] || { cat "$out/device.log"; exit 1; }
part step 150 "$python" benchmarks/gpu_step.py --json "$out/step.json"
part tests 70 "$python" -m pytest -q -p no:cacheprovider tests/codec/test_device.py
part codecs 120 "$python" benchmarks/codec_speed.py --device cuda --codecs ours/plain ours/fp32 ours/mixed ours/bf16 auv \
    encodec mimi dac --seconds 10 --batch 1 8 --rounds 3 --parts ceilings speed --json "$out/codecs.json"
part lm 90 "$python" benchmarks/lm_speed.py --device cuda --steps 4 --rounds 3 --batch-tokens 16384 --clips 64 \
    --json "$out/lm.json"
if [ -n "${REFERENCE:-}" ]; then
    fixture=$(mktemp -d)
    part reference 80 sh -c "'$python' -c \"import sys; sys.path.insert(0, 'benchmarks'); from pathlib import Path; \
from step_fixture import write_fixture; write_fixture(Path('$fixture'))\" && '$python' benchmarks/reference_step.py \
'$REFERENCE' '$fixture' --gan --steps 3 --precision bf16 --device cuda"
    rm -rf "$fixture"
fi
exit $failed
