#!/usr/bin/env bash
# Train and evaluate on two machines made of this one: two network namespaces joined by a cable. Needs root.
# Usage: PYTHON=.venv/bin/python scripts/two_nodes.sh data=digits outputs=/tmp/two_nodes ...
set -euo pipefail

train="$(cd "$(dirname "$0")/.." && pwd)/train.py"
name="variata$$"

clean() {
  trap - EXIT INT TERM
  for node in 0 1; do
    ip netns pids "$name-$node" 2>/dev/null | xargs -r kill -KILL 2>/dev/null || true
    ip netns del "$name-$node" 2>/dev/null || true # and its end of the cable
  done
}
trap clean EXIT
trap 'exit 1' INT TERM

for node in 0 1; do
  ip netns add "$name-$node"
  ip -n "$name-$node" link set lo up
done
ip -n "$name-0" link add cable type veth peer name cable netns "$name-1"
for node in 0 1; do
  ip -n "$name-$node" addr add "10.77.0.$((node + 1))/24" dev cable
  ip -n "$name-$node" link set cable up
done

# is_host: both namespaces have this machine's name, by which torchrun would tell who keeps the rendezvous
for node in 0 1; do
  ip netns exec "$name-$node" env GLOO_SOCKET_IFNAME=cable "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint=10.77.0.1:29500 --rdzv-id="$name" \
    --rdzv-conf="is_host=$((1 - node))" --local-addr="10.77.0.$((node + 1))" \
    "$train" trainer=ddp trainer.accelerator=cpu trainer.devices=1 trainer.num_nodes=2 "$@" &
done
wait -n # the first to end; if it failed, the other is not waited for
wait -n
