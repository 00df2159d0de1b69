#!/usr/bin/env bash
# Stage two on several GPUs: the same steps, rows and results as on one.
#
#   examples/several_gpus/run.sh --cache ./cache --student Qwen/Qwen2.5-Omni-7B --out ./run
#   SHARDING=full examples/several_gpus/run.sh ...       # a part of each weight, gradient and moment a GPU (FSDP2)
#   NODES=2 NODE=0 HEAD=first-host:29500 examples/several_gpus/run.sh ...       # on every node, NODE counts from 0
#
# CI runs it with two processes on one machine; several nodes were not tried.
#
# What follows are flags of `train student`. A run that ended early goes on with --resume, on any number of GPUs.
set -euo pipefail
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
where=(--standalone)
if [ "${NODES:-1}" -gt 1 ]; then
  where=(--nnodes "$NODES" --node-rank "${NODE:?the number of this node, from 0}" \
    --rdzv-backend c10d --rdzv-endpoint "${HEAD:?host:port of node 0}")
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${where[@]}" --nproc-per-node "$gpus" \
  -m train student --set "student.sharding=${SHARDING:-none}" "$@"
