#!/usr/bin/env bash
# Traces that somebody else wrote (people, a closed model, a published set) become a tape: the teacher
# generates nothing, it reads each trace once and its logits and states are recorded.
#
#   examples/traces_from_elsewhere/run.sh chat.jsonl ./cache [flags of pipeline extract-teachers]
#
# The teacher reads a description before the trace: here an audio language model writes it. Each trace is judged
# against the answer in its own RESPONSE, so that all count as right: give answers of your own if you have them.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
chat=${1:?rows, as examples/traces_from_elsewhere/run.sh CHAT.JSONL CACHE}
cache=${2:?a folder for the tape}
shift 2
python=${PYTHON:-python}

"$python" "$here/chat_rows.py" "$chat" "$cache.rows.jsonl"
"$python" -m pipeline extract-teachers --dataset "$cache.rows.jsonl" --out "$cache" \
  --text-teacher "${TEACHER:-Qwen/Qwen3-8B}" --set textual.given=trace \
  --set "textualize.listen.caption.model=${LISTENER:-Qwen/Qwen2.5-Omni-7B}" "$@"
