#!/usr/bin/env bash
# An encoder beside the textual teacher: WavLM's frames teach the audio positions of the student,
# averaged over the seconds each position covers.
#
#   examples/encoder_teacher/run.sh ./cache ./run
#
# ./cache is a tape that has traces (pipeline extract-teachers ... --text-teacher M); WavLM becomes a
# source of its own on it, and nothing that is there is written again. To give it to a tape that is
# somebody else's, pull that first.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
cache=${1:?a tape, as examples/encoder_teacher/run.sh CACHE RUN}
run=${2:?a folder for the run}
python=${PYTHON:-python}

"$python" -m pipeline extract-teachers --out "$cache" --only acoustic \
  --acoustic-teacher "${ENCODER:-microsoft/wavlm-large}" --set acoustic.name=wavlm \
  --acoustic-layers "${LAYERS:-12,24}"
"$python" -m train student --recipe "${TRAIN_RECIPE:-$here/train.toml}" --cache "$cache" \
  --student "${STUDENT:-Qwen/Qwen2.5-Omni-7B}" --out "$run"
