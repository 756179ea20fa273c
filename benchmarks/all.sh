#!/usr/bin/env bash
# All tables of our figures in one command: at most an hour, by limits, on two cores that do nothing else.
#   bash benchmarks/all.sh [FOLDER] [PART...]     FOLDER/PART.json and .log, FOLDER/tables.md; default all_tables, all parts
#   REFERENCE=checkout bash benchmarks/all.sh     the public reference's training step beside ours (see README.md)
#   MINIATURE=1 bash benchmarks/all.sh            every part in its smallest size, to see that all of them run; no figures
# Run again, it does what is not final yet: what failed, was cut off, or was taken while the machine did other work, which
# part.py finds out and notes (`busy`). Figures of a part that is not final are not for publication.
set -u
out=$(realpath -m "${1:-all_tables}")
[ $# -gt 0 ] && shift
chosen=" $* "
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python}
small=${MINIATURE:-}
mkdir -p "$out"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
failed=0 known=" "

part() { # NAME SECONDS SCRIPT ARGUMENTS..., for the miniature after `--small`
    local name=$1 limit=$2 script=$3 full=() tiny=() into=full
    shift 3
    for argument in "$@"; do
        if [ "$argument" = --small ]; then into=tiny; elif [ $into = full ]; then full+=("$argument"); else tiny+=("$argument"); fi
    done
    known+="$name "
    case "$chosen" in "  " | *" $name "*) ;; *) return ;; esac
    [ -z "$small" ] || { full=("${tiny[@]}"); limit=900; }
    "$python" benchmarks/part.py "$out" "$name" "$limit" "$python" "benchmarks/$script" "${full[@]}" || failed=1
}
figures() { echo "$out/$1.figures.json"; }

some="auv auv/int8 encodec/loop ours/fp32 ours/onnx-int8"
ours_and_auv="auv auv/bf16 auv/int8 ours/fp32 ours/bf16 ours/int16 ours/int8 ours/onnx ours/onnx-int8"
part codec_10s 400 codec_speed.py --seconds 10 --batch 1 --rounds 3 --parts ceilings fidelity speed --fidelity-clips 5 \
    --json "$(figures codec_10s)" --small --threads 1 --codecs $some --seconds 1 --batch 1 --rounds 1 --parts ceilings fidelity speed \
    --fidelity-clips 1 --json "$(figures codec_10s)"
part codec_compile 300 codec_speed.py --seconds 10 --batch 1 --rounds 2 --parts speed --codecs auv auv/compile ours/plain ours/compile \
    --json "$(figures codec_compile)" --small --threads 1 --codecs bundled/plain --seconds 1 --batch 1 --rounds 1 --parts speed \
    --json "$(figures codec_compile)"
part codec_10s_batch_8 420 codec_speed.py --seconds 10 --batch 8 --rounds 1 --parts ceilings speed \
    --kept "$out/codec_10s.json" --json "$(figures codec_10s_batch_8)" --small --threads 1 --codecs auv encodec encodec/loop mimi mimi/loop --seconds 1 --batch 2 --rounds 1 \
    --parts speed --json "$(figures codec_10s_batch_8)"
part codec_60s 350 codec_speed.py --seconds 60 --batch 1 --rounds 2 --parts ceilings speed --codecs $ours_and_auv encodec mimi \
    wavtokenizer --kept "$out/codec_10s.json" --json "$(figures codec_60s)" --small --threads 1 --codecs auv/bf16 ours/int8 wavtokenizer --seconds 1 --batch 1 --rounds 1 \
    --parts speed --kept "$out/codec_10s.json" --json "$(figures codec_60s)"
part codec_memory 170 codec_speed.py --seconds 60 --parts memory --threads 1 --codecs auv auv/int8 encodec mimi ours/fp32 ours/int16 \
    ours/int8 ours/onnx-int8 bundled/int8 --json "$(figures codec_memory)" --small --seconds 1 --parts memory --threads 1 \
    --codecs bundled/int8 --json "$(figures codec_memory)"
part fidelity 150 codec_speed.py --parts fidelity --codecs bundled/fp32 bundled/mixed bundled/bf16 bundled/int16 bundled/int8 bundled/onnx bundled/onnx-int8 \
    --json "$(figures fidelity)" --small --threads 1 --parts fidelity --codecs bundled/int8 bundled/onnx-int8 --fidelity-clips 1 --json "$(figures fidelity)"
part folder 220 folder_throughput.py --repeats 2 --json "$(figures folder)" --small --clips 4 --repeats 1 --json "$(figures folder)"
part onnx 80 onnx_parity.py --int8 --small --int8 --clips 1 --repeats 1
part onnx_auv 80 onnx_parity.py --auv --int8 --clips 6 --small --auv --int8 --clips 1 --repeats 1
part lm 280 lm_speed.py --json "$(figures lm)" --small --steps 1 --rounds 1 --batch-tokens 2048 --clips 2 --codes 4 --json "$(figures lm)"
part train_step 420 train_step.py ${REFERENCE:+--reference "$REFERENCE"} --repeats 1 --no-r1 --json "$(figures train_step)" \
    --small --precision bf16 --window 1 --gan off --repeats 1 --no-r1 --json "$(figures train_step)"
part recipe_step 100 recipe_step.py --rounds 2 --steps 3 --small --recipes base --at 1 --steps 1 --rounds 1
part search 180 search_speed.py -o "$(figures search)" --small --clips 1 --turns 1 -o "$(figures search)"
part bridge_memory 60 bridge_memory.py --small --batch 1 --frames 10 --codes 64 --width 16 --heads 2 --repeats 1
part stream 60 longform.py stream --seconds 10 --small stream --seconds 2
part seams 60 longform.py seams --small seams --seconds 12 --chunks 10 --lookaheads 1
part discriminators 50 discriminators.py --small --batch 1 --seconds 0.2
part evaluate 200 evaluate_speed.py --rounds 2 --small --clips 2 --rounds 1
for name in $chosen; do
    case "$known" in *" $name "*) ;; *) echo "no part $name; there are:$known" >&2; failed=1 ;; esac
done
"$python" benchmarks/part.py "$out"
exit $failed
