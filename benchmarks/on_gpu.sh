#!/usr/bin/env bash
# What docs/performance.md has of CPUs, measured on a CUDA device, into benchmarks/results.
#
#     pip install -e '.[peers]'
#     bash benchmarks/on_gpu.sh DATA            # the folder of Omniglot and mini-ImageNet
#     DRY=1 bash benchmarks/on_gpu.sh DATA      # only say what would run
#
# A part that fails does not end the others; the exit status says whether one did.
set -uo pipefail
data=${1:?"the folder of Omniglot and mini-ImageNet"}
out=benchmarks/results
today=$(date +%F)
failed=0

# What the command prints goes to FILE, too: run FILE ARGUMENTS ...
run() {
    local file=$1
    shift
    echo "python $*"
    [ -n "${DRY:-}" ] && return
    python "$@" | tee "$file" || failed=1
}

run /dev/null benchmarks/against_peers.py --device cuda --out "$out"
run "$out/memory_cuda_$today.md" benchmarks/memory.py --device cuda \
    --steps 1 2 5 10 20 50 --tasks 1 4 --plot "$out/memory_cuda_$today.svg"
for workload in omniglot_5way_1shot mini_5shot; do
    run /dev/null benchmarks/precision.py "$workload" --device cuda --compile --out "$out"
done
run "$out/training_sinusoid_cuda_$today.md" benchmarks/training.py --device cuda
run "$out/training_images_cuda_$today.md" benchmarks/training.py --device cuda --data.root "$data" \
    --config configs/omniglot_5way_1shot.yaml configs/mini_1shot.yaml configs/mini_5shot.yaml \
    --updates 200 --warm-up 20
run "$out/scaling_cuda_$today.md" benchmarks/scaling.py --device cuda --data.root "$data" \
    --config configs/sinusoid.yaml configs/omniglot_5way_1shot.yaml \
    --processes "$(python -c 'import torch; print(max(torch.cuda.device_count(), 1))')"
for experiment in omniglot_5way_1shot mini_5shot mini_1shot; do
    run /dev/null benchmarks/speedrun.py "$experiment" --log "$out/speedrun_cuda.json" \
        --trainer.accelerator gpu --data.root "$data" --model.compile true
done
exit $failed
