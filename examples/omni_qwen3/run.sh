#!/usr/bin/env bash
# The setting of arXiv 2509.18579: Qwen3-8B and the frozen student teach Qwen2.5-Omni-7B.
#
#   examples/omni_qwen3/run.sh clips.jsonl ./omni [flags of pipeline extract-teachers]
#
# Stage one runs on one GPU, a teacher at a time (about 16 GB of bfloat16 weights each, and what vLLM
# is given beside them); stage two on all GPUs of the node (GPUS=N for fewer). Both are continued by
# the same command. Tried in CI with tiny models of the same classes, not with the hub's weights. The rows have audio, question, choices and answer; a caption
# column, where there is one, is taken instead of the model's: --set textualize.listen={}
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
dataset=${1:?a dataset, as examples/omni_qwen3/run.sh DATASET FOLDER}
folder=${2:?a folder for the tape and the run}
shift 2
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}

"${PYTHON:-python}" -m pipeline extract-teachers --recipe "$here/extract.toml" \
  --dataset "$dataset" --out "$folder/cache" "$@"
"${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node "$gpus" -m train student \
  --recipe "${TRAIN_RECIPE:-$here/train.toml}" --cache "$folder/cache" \
  --student "${STUDENT:-Qwen/Qwen2.5-Omni-7B}" --out "$folder/run"
